import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_models import anatomy

from seqlens.attention.sites import AttentionReport, Extent, Site, SiteProof
from seqlens.graphs.anatomy import AttentionSite, ParameterGroup, RecurrentLayer
from seqlens.repository.cache import ProofCache, Remembered
from seqlens.repository.verify import LengthErrors, Proof
from seqlens.scheduling.cost import Measurement

ERRORS = st.none() | st.floats(min_value=0, allow_nan=False)


def remembered(**errors: float | None) -> Remembered:
    found = anatomy(
        recurrent_layers=(RecurrentLayer("l", "lstm", "bidirectional", 4, 8),),
        attention_sites=(AttentionSite("a", 0, "self", "Softmax", heads=2),),
        parameters=(ParameterGroup("dense", 7),),
        details={"sequence_lengths": "lengths"},
        max_length=9,
    )
    proof = Proof(
        1e-4, 1e-5, **errors, by_length=(LengthErrors(3, padded_error=math.inf),),
        refused_lengths={1: "too short"},
    )  # fmt: skip
    site = Site(
        found.attention_sites[0],
        ("batch", "head", "query", "key"),
        SiteProof(True, row_sum_error=1e-7),
        measured=True,
        keys=Extent(2, 1, "source"),
    )
    attention = AttentionReport((site,), 0.5, ("a remark",))
    return Remembered("cuda:1", found, proof, (Measurement(8, 1, 0.25),), attention)


@given(padded=ERRORS, equal=ERRORS)
def test_what_is_kept_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, padded: float | None, equal: float | None
) -> None:
    cache = ProofCache(tmp_path_factory.mktemp("cache"))
    entry = remembered(padded_error=padded, equal_length_error=equal)
    cache.put("key", entry)
    assert cache.get("key") == entry


def test_an_infinite_error_stays_infinite(tmp_path: Path) -> None:
    cache = ProofCache(tmp_path)
    cache.put("key", remembered(padded_error=math.inf))
    kept = cache.get("key")
    assert kept is not None
    assert kept.proof.padded_error == math.inf


def test_an_unknown_key_gives_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ProofCache(tmp_path / "not" / "there").get("key") is None
    assert caplog.records == []


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[1]", b"\xff", b'{"device": 3}', b"[" * 9999])
def test_a_corrupt_file_is_ignored_with_a_line_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    (tmp_path / "key.json").write_bytes(text)
    cache = ProofCache(tmp_path)
    assert cache.get("key") is None
    assert "ignored a kept proof" in caplog.text
    cache.put("key", remembered())
    assert cache.get("key") == remembered()


def test_a_truncated_file_is_ignored(tmp_path: Path) -> None:
    cache = ProofCache(tmp_path)
    cache.put("key", remembered())
    path = tmp_path / "key.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert cache.get("key") is None


def test_an_entry_of_another_format_is_not_used(tmp_path: Path) -> None:
    cache = ProofCache(tmp_path)
    cache.put("key", Remembered("cpu", anatomy(), Proof(1.0, 1.0), (), AttentionReport(), format=0))
    assert cache.get("key") is None


def test_a_folder_that_cannot_be_written_is_told_and_not_fatal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        ProofCache(tmp_path / "file" / "cache").put("key", remembered())
    assert "proofs cannot be kept" in caplog.text


def test_writing_leaves_no_parts_behind(tmp_path: Path) -> None:
    cache = ProofCache(tmp_path)
    for _ in range(3):
        cache.put("key", remembered())
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ProofCache(Path("~/kept")).put("key", remembered())
    assert (tmp_path / "kept" / "key.json").is_file()
