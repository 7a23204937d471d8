"""Lines of a body, however it is cut into chunks and compressed."""

import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.rest.lines import PIECE_BYTES, Line, Lines, decompressed
from seqlens.errors import InvalidRequest

BODIES = st.lists(st.sampled_from([b"[1]", b"x" * 9, b"\n", b"\n\n", b" ", b"\r"])).map(b"".join)


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[start:end] for start, end in pairwise(ends)]


def read(chunks: Sequence[bytes], most: int = 1000) -> tuple[list[Line], Lines]:
    lines, found = Lines(most), []
    for chunk in chunks:
        found += lines.feed(chunk)
        if lines.error:
            return found, lines
    return found + list(lines.end()), lines


@given(BODIES, st.lists(st.integers(0, 500)))
def test_lines_do_not_depend_on_chunks(body: bytes, places: list[int]) -> None:
    found, _ = read(cut(body, places))
    whole = enumerate(body.split(b"\n"), start=1)
    assert found == [(number, line) for number, line in whole if line.strip()]


@given(st.integers(0, 8), st.lists(st.integers(0, 500)))
def test_a_line_that_is_too_long_is_the_last(before: int, places: list[int]) -> None:
    body = b"[1]\n" * before + b"y" * 21 + b"\n[2]\n"
    found, lines = read(cut(body, places), most=20)
    assert [number for number, _ in found] == list(range(1, before + 1))
    assert lines.error is not None
    assert lines.error.field == f"line {before + 1}"


async def chunked(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def inflate(chunks: Sequence[bytes], encoding: str) -> bytes:
    pieces = [piece async for piece in decompressed(chunked(chunks), encoding)]
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@given(st.binary(max_size=300), st.lists(st.integers(0, 500)), st.integers(1, 3))
async def test_gzip_does_not_depend_on_chunks_or_members(
    data: bytes, places: list[int], members: int
) -> None:
    body = gzip.compress(data) * members
    assert await inflate(cut(body, places), "gzip") == data * members


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES])
async def test_much_out_of_little_comes_in_pieces(size: int) -> None:
    body = zlib.compress(bytes(size))
    assert await inflate([body], "deflate") == bytes(size)
    assert await inflate([body[:-1], body[-1:]], "deflate") == bytes(size)


@given(st.binary(max_size=100), st.integers(1, 17))
async def test_data_that_ends_early_is_damaged(data: bytes, missing: int) -> None:
    with pytest.raises(InvalidRequest, match="damaged gzip data"):
        await inflate([gzip.compress(data)[:-missing]], "gzip")
