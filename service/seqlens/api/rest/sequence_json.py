"""Ragged sequences as JSON: texts, nested lists, and objects of inputs."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.requests import NamedTensor, SequenceRequest
from seqlens.api.rest.json_data import read_nested
from seqlens.api.rest.json_text import read_json
from seqlens.errors import InvalidRequest, MessageTooLarge, SeqLensError

MAX_RANK = 8

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
# What a list of lists begins with; only so much as tells whether it is nested too deeply.
_OPENING = re.compile(rb"[ \t\r\n\[]{0,64}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NOT_NESTING = bytes(set(range(256)) - set(b"[],"))
_BEYOND_INT64 = re.compile(rb"\d{19}")


def read_sequences(text: bytes, most: int) -> list[SequenceRequest | SeqLensError]:
    """One request for each of at most ``most`` sequences in a list; errors for wrong ones.

    Raises ``InvalidRequest`` for what is no list, or one of more.
    """
    try:
        listed = _lists(most).decode(text)
    except msgspec.DecodeError as error:  # what does not fit, or is no JSON
        if "length" not in str(error):
            raise InvalidRequest(
                "sequences", got="no list", expected="a list of sequences"
            ) from None
        raise MessageTooLarge(
            "sequences",
            got=f"more than {most} sequences",
            expected=f"at most {most} in one message",
        ) from None
    elements: Sequence[Any] = msgspec.structs.astuple(listed)
    return [_read_or_error(one) for one in elements if one is not msgspec.UNSET]


def read_sequence(text: bytes) -> SequenceRequest:
    """A text, a nested list for the only input, or an object of inputs. ``InvalidRequest``."""
    start = text.lstrip()[:1]
    if start == b'"':
        return SequenceRequest(text=read_json(_TEXT, text))
    if start != b"{":
        return SequenceRequest((_read_tensor("", text, "inputs"),))
    inputs = read_json(_OBJECT, text)
    check_tensor_names("inputs", inputs)
    return SequenceRequest(
        tuple(_read_tensor(name, bytes(raw), f"inputs.{name}") for name, raw in inputs.items())
    )


def _read_or_error(raw: msgspec.Raw) -> SequenceRequest | SeqLensError:
    try:
        return read_sequence(bytes(raw))
    except SeqLensError as error:
        return error


@cache
def _lists(most: int) -> "msgspec.json.Decoder[msgspec.Struct]":
    """Decoder of lists of at most so many values that stops at the first one too many.

    A list type with a bound is read to its end before its length is looked at: 64 MB of ``[],``
    would become more than a gigabyte of values.
    """
    kind = msgspec.Raw | msgspec.UnsetType
    fields = [(f"s{index}", kind, msgspec.UNSET) for index in range(most)]
    struct = msgspec.defstruct("Listed", fields, array_like=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(struct)


def _read_tensor(name: str, text: bytes, field: str) -> NamedTensor:
    datatype, shape = _datatype(text), _shape(text, field)
    return NamedTensor(name, datatype, read_nested(text, datatype, shape, field))


def _datatype(text: bytes) -> str:
    """What the first element is; the model's own datatype follows from it later."""
    first = text[_opening(text) :][:1]
    if first in (b"t", b"f"):
        return "BOOL"
    if first == b'"':
        return "BYTES"
    if first not in b"-0123456789]" or any(mark in text for mark in (b".", b"e", b"E")):
        return "FP64"
    return "UINT64" if _BEYOND_INT64.search(text) and b"-" not in text else "INT64"


def _opening(text: bytes) -> int:
    found = _OPENING.match(text)
    return found.end() if found else 0


def _shape(text: bytes, field: str) -> list[int]:
    """The shape that the first list of each depth has; that all have it is checked later."""
    opening = text[: _opening(text)]
    rank = opening.count(b"[")
    if rank > MAX_RANK:
        raise InvalidRequest(
            field, got=f"lists nested {rank} deep or more", expected=f"at most {MAX_RANK}"
        )
    if not rank:
        return []
    nesting = (_STRING.sub(b"", text) if b'"' in text else text).translate(None, _NOT_NESTING)
    shape = []
    for depth in range(rank):  # from the inside: the first list of a depth ends in so many "]"
        first = nesting[: nesting.find(b"]" * (depth + 1))]
        shape.append(first.count(b"]" * depth + b",") + 1)
    if text[_opening(text) :].startswith(b"]"):
        shape[0] = 0
    return shape[::-1]
