"""Compressed bodies and the choice of an encoding, as pure functions."""

import gzip
import time
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.rest.encodings import (
    MAX_MEMBERS,
    choose_encoding,
    compress,
    decompress,
    read_encodings,
)
from seqlens.errors import BodyTooLarge, InvalidRequest, UnknownEncoding

LIMIT = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


# Every frame in which real clients send bodies, with the encoding that names it.
FRAMES = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw": ("deflate", raw_deflate),
    "ours, gzip": ("gzip", lambda data: compress(data, "gzip")),
    "ours, deflate": ("deflate", lambda data: compress(data, "deflate")),
}

frames = st.sampled_from(sorted(FRAMES))
bodies = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda part, count: part * count, st.binary(max_size=9), st.integers(0, 30_000)),
)


@given(frames, bodies)
def test_what_was_compressed_comes_back(frame: str, data: bytes) -> None:
    encoding, pack = FRAMES[frame]
    assert decompress(pack(data), [encoding], LIMIT) == data


@given(st.lists(frames, max_size=3), st.binary(max_size=300))
def test_encodings_are_taken_off_in_the_reverse_of_their_order(
    names: list[str], data: bytes
) -> None:
    packed = data
    for name in names:
        packed = FRAMES[name][1](packed)
    assert decompress(packed, [FRAMES[name][0] for name in names], LIMIT) == data


@given(st.lists(st.binary(max_size=2_000), min_size=1, max_size=20))
def test_gzip_may_have_several_members(parts: list[bytes]) -> None:
    assert decompress(b"".join(map(gzip.compress, parts)), ["gzip"], LIMIT) == b"".join(parts)


@given(frames, st.binary(min_size=1, max_size=300), st.data())
def test_data_that_ends_early_is_refused(frame: str, data: bytes, choose: st.DataObject) -> None:
    encoding, pack = FRAMES[frame]
    packed = pack(data)
    cut = choose.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(InvalidRequest, match=f"damaged {encoding} data"):
        decompress(packed[:cut], [encoding], LIMIT)


@given(frames, bodies, st.binary(min_size=1, max_size=20))
def test_data_after_the_end_is_refused(frame: str, data: bytes, rest: bytes) -> None:
    encoding, pack = FRAMES[frame]
    with pytest.raises(InvalidRequest, match=f"damaged {encoding} data"):
        decompress(pack(data) + b"\0" + rest, [encoding], LIMIT)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1, max_size=200))
def test_any_bytes_at_all_are_decompressed_or_refused(encoding: str, data: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(decompress(data, [encoding], LIMIT), bytes)


@given(frames, bodies, st.integers(-3, 3))
def test_the_limit_is_exact(frame: str, data: bytes, more: int) -> None:
    encoding, pack = FRAMES[frame]
    limit = max(0, len(data) + more)
    if len(data) > limit:
        with pytest.raises(BodyTooLarge):
            decompress(pack(data), [encoding], limit)
    else:
        assert decompress(pack(data), [encoding], limit) == data


def test_the_limit_counts_all_members_together() -> None:
    member = gzip.compress(bytes(400))
    with pytest.raises(BodyTooLarge):
        decompress(member * 3, ["gzip"], 1_000)


def test_a_bomb_in_a_bomb_stops_at_the_limit() -> None:
    inner = gzip.compress(bytes(64 << 20))
    with pytest.raises(BodyTooLarge):
        decompress(gzip.compress(inner), ["gzip", "gzip"], LIMIT)


def test_a_flood_of_empty_members_ends_soon() -> None:
    members = gzip.compress(b"") * (MAX_MEMBERS * 4)
    start = time.perf_counter()
    with pytest.raises(InvalidRequest, match="after its end"):
        decompress(members, ["gzip"], LIMIT)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("header", "encodings"),
    [
        ("", ()),
        ("identity", ()),
        ("gzip", ("gzip",)),
        ("X-GZIP", ("gzip",)),
        (" Deflate ", ("deflate",)),
        ("gzip, identity ,deflate,", ("gzip", "deflate")),
    ],
)
def test_names_of_encodings(header: str, encodings: tuple[str, ...]) -> None:
    assert read_encodings(header) == encodings


@pytest.mark.parametrize("header", ["br", "gzip;q=1", "gzip, zstd", "gzip,gzip,gzip,gzip"])
def test_unknown_encodings_are_refused(header: str) -> None:
    with pytest.raises(UnknownEncoding) as caught:
        read_encodings(header)
    assert caught.value.got == repr(header)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip ; q=0.5 , deflate; q = 0.7", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, deflate;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", None),
        ("br", None),
        ("", None),
        ("gzip;q=high", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
    ],
)
def test_the_encoding_to_answer_with(accept: str, chosen: str | None) -> None:
    assert choose_encoding(accept) == chosen


quality = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@given(st.dictionaries(st.sampled_from(["gzip", "deflate", "identity", "br"]), quality, min_size=1))
def test_no_encoding_is_chosen_that_was_not_accepted_or_is_not_the_best(
    accepted: dict[str, float],
) -> None:
    header = ", ".join(f"{name};q={quality:.3f}" for name, quality in accepted.items())
    offered = {name: accepted.get(name, 0.0) for name in ("gzip", "deflate", "identity")}
    chosen = choose_encoding(header)
    if chosen is not None:
        assert 0 < offered[chosen] == max(offered.values())
    else:
        assert max(offered.values()) in (0.0, offered["identity"])


@given(st.text(max_size=60))
def test_any_header_is_read_somehow(accept: str) -> None:
    assert choose_encoding(accept) in ("gzip", "deflate", None)
