"""Attention sites are tried at load, and what fails there never keeps a model from serving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repository.test_loading import Shop
from tests.support.numpy_models import NumpyEngine, engine

from seqlens.backends.tapped import TappedModel
from seqlens.graphs.anatomy import AttentionSite
from seqlens.repository.attention_proof import prove_attention

SITE = AttentionSite("layer.0", 0, "self", "Softmax", heads=2)


class Untappable(NumpyEngine):
    def tapped(self) -> None:
        raise RuntimeError("no such file")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[NumpyEngine]]:
    """The engines that were opened up."""
    engines: list[NumpyEngine] = []
    monkeypatch.setattr(NumpyEngine, "tapped", lambda engine: engines.append(engine))
    return engines


def test_what_fails_is_a_finding_and_the_sites_say_why() -> None:
    failing = Untappable("safe", engine("safe", attention_sites=(SITE,)).anatomy)
    report = prove_attention(failing, seconds=1)
    (site,) = report.sites
    assert (site.name, site.drawable, site.proof.proved) == ("layer.0", False, False)
    assert "no such file" in site.note
    assert report.findings == (f"attention: {site.note}",)


def test_a_backend_that_cannot_look_inside_says_so() -> None:
    report = prove_attention(engine("safe", attention_sites=(SITE,)), seconds=1)
    assert report.sites[0].note == "the backend cannot look inside its models"


def test_a_model_without_attention_has_nothing_to_tell() -> None:
    report = prove_attention(engine("safe"), seconds=1)
    assert (report.sites, report.findings) == ((), ())


def test_a_kept_proof_opens_no_model(tmp_path: Path, opened: list[TappedModel]) -> None:
    shop = Shop(tmp_path)
    first, second = shop.load(), shop.load()
    assert opened == shop.backend.engines[:1]
    assert second.attention == first.attention
