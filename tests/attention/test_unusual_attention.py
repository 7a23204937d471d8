"""Attention that is written in unusual ways, exported: proved and right, or refused, or none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.support import onnx_models, unusual_attention
from tests.support.unusual_attention import HEADS, VOCABULARY, WIDTH, Unusual
from torch import Tensor

from seqlens.attention.maps import choose_sites, draw
from seqlens.attention.proof import prove_sites
from seqlens.attention.selection import AttentionSelection, SiteMaps
from seqlens.attention.sites import AttentionReport, Extent
from seqlens.backends.base import LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.tapped import TappedModel
from seqlens.sequences import Array, InputSequence

ALL = AttentionSelection()
# Positions of the tokens and of the memory, which the second and third share.
SIZES = ((8, 5), (11, 9), (9, 9), (16, 2))


def made(name: str) -> Unusual:
    torch.manual_seed(1)
    module: Unusual = getattr(unusual_attention, name)().eval()
    for parameter in module.parameters():
        parameter.data.mul_(1.7)
    return module


def given(name: str, length: int, own: int) -> dict[str, Array]:
    """Inputs of one sequence."""
    random = np.random.default_rng([length, own])
    cache = (HEADS, own, WIDTH // HEADS)
    every: dict[str, Array] = {
        "tokens": random.integers(0, VOCABULARY, length),
        "memory": random.standard_normal((own, WIDTH)).astype(np.float32),
        "memory_mask": np.ones(own, np.int64),
        "past_key": random.standard_normal(cache).astype(np.float32),
        "past_value": random.standard_normal(cache).astype(np.float32),
    }
    names: tuple[str, ...] = getattr(unusual_attention, name).example
    return {one: every[one] for one in names}


def opened(
    module: Unusual, folder: Path, *, fixed: tuple[str, ...] = ()
) -> tuple[TappedModel, AttentionReport]:
    """The module exported, with no axis but the batch open in the inputs that are ``fixed``."""
    name = type(module).__name__
    example = {
        key: torch.from_numpy(np.stack([one, one])) for key, one in given(name, 6, 9).items()
    }
    axes = {key: {0: "b"} for key in example}
    for key in example:
        if key not in fixed:
            place = 2 if key.startswith("past") else 1
            axes[key][place] = "t" if key == "tokens" else "own"
    model = onnx_models.export(module, list(example.values()), list(example), axes)
    onnx.save(model, folder / "model.onnx")
    engine = OnnxBackend().load(folder / "model.onnx", LoadOptions())
    tapped = engine.tapped()
    assert tapped is not None
    return tapped, prove_sites(tapped, engine.run, seconds=20)


def expected_maps(module: Unusual, inputs: dict[str, Array]) -> list[Tensor]:
    with torch.no_grad():
        module(**{name: torch.from_numpy(array)[None] for name, array in inputs.items()})
    return module.maps


def check_maps(module: Unusual, tapped: TappedModel, report: AttentionReport, *own: int) -> None:
    """Draw several sequences, alone and together, and compare with the module's own weights."""
    name = type(module).__name__
    sizes = [(length, own[0] if own else other) for length, other in SIZES]
    sequences = [InputSequence(given(name, *size), size[0]) for size in sizes]
    expected = [expected_maps(module, dict(one.inputs)) for one in sequences]
    sites = choose_sites(report, ALL)
    assert len(sites) == len(expected[0])
    for together in (False, True):
        for item in draw(tapped, sites, sequences, ALL, together=together):
            assert isinstance(item, SiteMaps)
            place = sites.index(item.site)
            for one in item.maps:
                reference = expected[one.sequence][place][0].numpy()
                np.testing.assert_allclose(one.weights, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "kinds", "note"),
    [
        ("TalkingHeads", ["self"], "before they are mixed with those of other heads"),
        ("Differential", ["self", "self"], "before they are mixed with those of other heads"),
        ("Flattened", ["self"], ""),
        ("SeveralPools", ["pooling"], ""),
        ("Sink", ["self"], ""),
        ("OverAnotherInput", ["cross"], ""),
    ],
)
def test_weights_are_those_of_the_module(
    name: str, kinds: list[str], note: str, tmp_path: Path
) -> None:
    module = made(name)
    tapped, report = opened(module, tmp_path)
    assert [site.proof.reason for site in report.sites] == [""] * len(kinds)
    assert [site.site.kind for site in report.sites] == kinds
    assert {site.note for site in report.sites} == {note}
    check_maps(module, tapped, report)


def test_another_input_may_have_one_length_only(tmp_path: Path) -> None:
    module = made("OverAnotherInput")
    tapped, report = opened(module, tmp_path, fixed=("memory", "memory_mask"))
    assert [site.keys for site in report.proved] == [Extent(stride=0, offset=9)]
    check_maps(module, tapped, report, 9)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Cached", "follows several lengths at once: the sequence, 'past_key'"),
        ("Channels", "size 16 that follows no length"),
        ("Band", "size 5 that follows no length"),
        ("Windows", "an axis follows the batch and a length at once"),
    ],
)
def test_maps_without_one_axis_of_positions_are_refused(
    name: str, reason: str, tmp_path: Path
) -> None:
    report = opened(made(name), tmp_path)[1]
    assert report.proved == ()
    assert [reason in site.proof.reason for site in report.sites] == [True]


@pytest.mark.parametrize(
    ("name", "place"),
    [("ReversedKeys", "key 0 is position 4"), ("ReversedQueries", "query 0 is position 4")],
)
def test_maps_in_another_order_are_not_proved(name: str, place: str, tmp_path: Path) -> None:
    report = opened(made(name), tmp_path)[1]
    assert report.proved == ()
    assert [place in site.proof.reason for site in report.sites] == [True]


@pytest.mark.parametrize("name", ["Sigmoid", "Experts", "Gates", "Tags"])
def test_what_is_no_attention_is_not_listed(name: str, tmp_path: Path) -> None:
    assert opened(made(name), tmp_path)[1].sites == ()
