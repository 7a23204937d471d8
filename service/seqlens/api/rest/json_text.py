"""JSON of requests to typed values, with errors that name the part at fault."""

import re
from typing import TypeVar

import msgspec

from seqlens.errors import InvalidRequest

T = TypeVar("T")

FINITE = "a finite number: NaN and infinity are not JSON, send them in binary (binary_data_size)"

_PLACE = re.compile(r" - at `\$(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")
_MISMATCH = re.compile(r"Expected (.+), got (.+)")
_BOUNDS = {"Number out of range": "a number that FP64 can hold"}
_BYTE = re.compile(r"\(byte (\d+)\)")


def read_json(decoder: "msgspec.json.Decoder[T]", text: bytes, root: str = "") -> T:
    """The value of the decoder's type.

    ``root`` names the value itself, empty for a whole body. Raises ``InvalidRequest`` for the
    part at fault, say ``inputs[0].name``.
    """
    if not text:
        raise InvalidRequest("body", got="nothing", expected="JSON")
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise mismatch(error, root) from None
    except msgspec.DecodeError as error:
        raise _malformed(str(error), text) from None
    except UnicodeDecodeError:
        raise InvalidRequest("body", got="bytes that are not UTF-8", expected="JSON") from None
    except RecursionError:
        raise InvalidRequest(
            "body", got="values nested too deeply", expected="a few levels, as the protocol has"
        ) from None


def place_of(error: msgspec.ValidationError) -> str:
    """Where in the value an error is, as in ``inputs[0].name`` or ``[3]``; empty: the value."""
    found = _PLACE.search(str(error))
    return found[1].removeprefix(".") if found else ""


def mismatch(error: msgspec.ValidationError, root: str) -> InvalidRequest:
    """What is wrong with a value that is not of its type; ``root`` names the whole of it."""
    place, text = place_of(error), _PLACE.sub("", str(error))
    if missing := _MISSING.fullmatch(text):
        return InvalidRequest(_join(root, place, missing[1]), got="nothing", expected="a value")
    field = _join(root, place) or "body"
    if unknown := _UNKNOWN.fullmatch(text):
        field = _join(root, place, unknown[1])
        return InvalidRequest(field, got="a field that is not known", expected="nothing")
    if mismatch := _MISMATCH.fullmatch(text):
        expected, got = (part.replace("`", "") for part in mismatch.groups())
        return InvalidRequest(field, got=got, expected=expected)
    expected = _BOUNDS.get(text) or text.removeprefix("Expected ").replace("`", "")
    return InvalidRequest(field, got="a value out of range", expected=expected)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part).replace(".[", "[")


def _malformed(message: str, text: bytes) -> InvalidRequest:
    found = _BYTE.search(message)
    if found and text[int(found[1]) :].startswith((b"NaN", b"Inf")):
        return InvalidRequest("body", got=f"NaN or infinity at byte {found[1]}", expected=FINITE)
    return InvalidRequest("body", got=f"no JSON: {message}", expected="JSON")
