"""The ``data`` of tensors in JSON: flat or nested as the shape, in row-major order.

The nesting is checked on the text's own brackets and commas and the numbers are read in pieces,
so that a tensor never becomes a list of Python objects many times its size.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np

from seqlens.api.failures import invalid
from seqlens.api.rest.json_text import FINITE, place_of
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array
from seqlens_wire.datatypes import BYTES, Datatype, find_datatype
from seqlens_wire.tensors import TensorError, conform, element_count

BINARY_ONLY = ("FP16", "BF16")  # no server of the protocol has a JSON form for them

_PIECE = 1 << 16  # bytes of text read at a time
_NOT_NESTING = bytes(set(range(256)) - set(b"[],"))
_INDEX = re.compile(r"\[(\d+)\]")
_SPACE = b" \t\r\n"
_SHOWN = 40  # characters of a wrong element that an error shows
_MOST_INT64, _MOST_UINT64 = 2**63 - 1, 2**64 - 1


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the data has to be; ``field`` names it in errors."""

    field: str
    kind: Datatype
    shape: Sequence[int]
    count: int


def read_data(text: bytes, datatype: str, shape: Sequence[int], field: str) -> Array:
    """Array of a shape from valid JSON.

    Numbers in range, ``true`` and ``false`` for BOOL, strings for BYTES. Raises
    ``InvalidRequest`` for parts of ``field``. Sizes are checked before anything is allocated.
    """
    if datatype in BINARY_ONLY:
        raise InvalidRequest(
            f"{field}.data",
            got=f"JSON for {datatype}",
            expected="the tensor in binary (binary_data_size)",
        )
    try:
        kind = find_datatype(datatype, field=f"{field}.datatype")
        count = element_count(shape, field=f"{field}.shape")
    except TensorError as error:
        raise invalid(error) from None
    return _read(text, _Wanted(f"{field}.data", kind, shape, count))


def read_nested(text: bytes, datatype: str, shape: Sequence[int], field: str) -> Array:
    """The same for lists whose shape was found in the text; errors are of ``field`` itself."""
    return _read(text, _Wanted(field, find_datatype(datatype), shape, prod(shape)))


def _read(text: bytes, wanted: _Wanted) -> Array:
    values = _read_texts(text, wanted) if wanted.kind is BYTES else _read_numbers(text, wanted)
    try:
        return conform(values, wanted.kind.name, field=wanted.field).reshape(wanted.shape)
    except TensorError as error:
        raise invalid(error) from None


def _read_numbers(text: bytes, wanted: _Wanted) -> Array:
    if b'"' in text or b"{" in text:
        raise InvalidRequest(wanted.field, got="strings or objects", expected=_elements(wanted))
    flat = text.translate(None, b"[]")
    found = flat.count(b",") + 1 if flat.strip(_SPACE + b",") else 0
    if found != wanted.count or not _well_nested(text, wanted):
        raise _misshapen(found, wanted)
    # FP64 at first: a number that FP32 does not reach must not turn infinite unseen.
    floats = wanted.kind.kind == "f"
    values = np.empty(found, np.float64 if floats else wanted.kind.dtype)
    start = 0
    for piece in _pieces(flat) if found else ():
        elements = _read_piece(piece, start, wanted)
        values[start : start + len(elements)] = elements
        start += len(elements)
    return values


def _well_nested(text: bytes, wanted: _Wanted) -> bool:
    nesting = text.translate(None, _NOT_NESTING)
    return nesting in (
        _nesting([wanted.count], len(nesting)),
        _nesting(_up_to_empty(wanted.shape), len(nesting)),
    )


def _nesting(shape: Sequence[int], most: int) -> bytes | None:
    """Brackets and commas of nested lists of a shape; None if they are more than ``most``."""
    text = b""
    for size in reversed(shape):
        if size * (len(text) + 1) > most:
            return None
        text = b"[" + ((text + b",") * size)[:-1] + b"]"
    return text


def _up_to_empty(shape: Sequence[int]) -> Sequence[int]:
    """The axes that nested lists can show: behind one of no elements there are no more lists."""
    return shape[: shape.index(0) + 1] if 0 in shape else shape


def _pieces(flat: bytes) -> Iterator[bytes]:
    """The text in parts, cut at commas."""
    start = 0
    while (end := flat.find(b",", start + _PIECE)) >= 0:
        yield flat[start:end]
        start = end + 1
    yield flat[start:]


def _read_piece(piece: bytes, start: int, wanted: _Wanted) -> list[Any]:
    """The numbers of a piece, the first of which is element ``start`` of the tensor."""
    try:
        elements = _numbers(wanted.kind.name).decode(b"[" + piece + b"]")
    except msgspec.ValidationError as error:
        found = _INDEX.fullmatch(place_of(error))
        raise _wrong_number(piece, int(found[1]) if found else 0, start, wanted) from None
    except msgspec.DecodeError:  # an empty list among others: a comma without a number beside it
        raise _misshapen(wanted.count, wanted) from None
    # Beyond what msgspec compares with.
    if wanted.kind.name == "UINT64" and max(elements) > _MOST_UINT64:
        raise _wrong_number(piece, elements.index(max(elements)), start, wanted)
    return elements


@cache
def _numbers(datatype: str) -> "msgspec.json.Decoder[list[Any]]":
    kind = find_datatype(datatype)
    if kind.kind == "b":
        return msgspec.json.Decoder(list[bool])
    if kind.kind == "f":
        return msgspec.json.Decoder(list[float])
    limits = np.iinfo(kind.dtype)
    most = limits.max if limits.max <= _MOST_INT64 else None
    return msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=limits.min, le=most)]])


def _read_texts(text: bytes, wanted: _Wanted) -> Array:
    start = text[: len(text) - len(text.lstrip(_SPACE + b"["))]
    depth, shape = start.count(b"["), _up_to_empty(wanted.shape)
    if depth not in (1, len(shape)):
        raise _misshapen(None, wanted)
    level = [_decode_texts(text, depth, wanted)]
    for size in [wanted.count] if depth == 1 else shape:
        if any(len(part) != size for part in level):
            raise _misshapen(len(level[0]) if depth == 1 else None, wanted)
        level = list(chain.from_iterable(level))
    values = np.empty(wanted.count, object)
    values[:] = [element.encode() for element in level]
    return values


def _decode_texts(text: bytes, depth: int, wanted: _Wanted) -> Any:
    try:
        return _texts(depth).decode(text)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"{wanted.field}{place_of(error)}", got="something else", expected="a string"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest(
            wanted.field,
            got="a string that is not UTF-8",
            expected="UTF-8, or the tensor in binary (binary_data_size)",
        ) from None


@cache
def _texts(depth: int) -> "msgspec.json.Decoder[Any]":
    nested: Any = str
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)


def _elements(wanted: _Wanted) -> str:
    kind = wanted.kind
    if kind.kind == "b":
        return "true or false"
    if kind.kind == "f":
        return FINITE
    limits = np.iinfo(kind.dtype)
    return f"an integer from {limits.min} to {limits.max}"


def _wrong_number(piece: bytes, index: int, start: int, wanted: _Wanted) -> InvalidRequest:
    element = piece.split(b",")[index].strip().decode()
    shown = element if len(element) <= _SHOWN else f"{element[:_SHOWN]}…"
    return InvalidRequest(f"{wanted.field}[{start + index}]", got=shown, expected=_elements(wanted))


def _misshapen(found: int | None, wanted: _Wanted) -> InvalidRequest:
    """``found`` is the number of elements, None where it is not known."""
    shape = list(wanted.shape)
    if found is None or found == wanted.count:
        return InvalidRequest(
            wanted.field,
            got="lists of other sizes",
            expected=f"one flat list of {wanted.count}, or lists nested as shape {shape}",
        )
    return InvalidRequest(
        wanted.field, got=f"{found} elements", expected=f"{wanted.count} for shape {shape}"
    )
