"""How an error's parts travel in the trailing metadata of a failed call.

The status carries code and message; these keys carry what a program may want to look at. Both
sides use this module, so neither spells a key by itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

FIELD_KEY = "seqlens-error-field"
GOT_KEY = "seqlens-error-got"
EXPECTED_KEY = "seqlens-error-expected"
# gRPC's own key: milliseconds until a retry is welcome. Clients with a retry policy obey it.
PUSHBACK_KEY = "grpc-retry-pushback-ms"

# Peers refuse headers beyond 8 KiB in all; one character can take 12 bytes when quoted.
MAX_CHARACTERS = 200
# Metadata is printable ASCII without spaces at the ends; the percent sign introduces the rest.
_PLAIN = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The parts of an error beside code and message; each may be empty."""

    field: str = ""  # part of the request at fault
    got: str = ""
    expected: str = ""
    retry_after_seconds: float | None = None  # when a retry is welcome; None: not said


def to_metadata(details: ErrorDetails) -> Metadata:
    """Trailing metadata for these details; empty parts are left out, long ones cut."""
    texts = ((FIELD_KEY, details.field), (GOT_KEY, details.got), (EXPECTED_KEY, details.expected))
    metadata = tuple((key, _quote(text)) for key, text in texts if text)
    if details.retry_after_seconds is None:
        return metadata
    return (*metadata, (PUSHBACK_KEY, str(round(details.retry_after_seconds * 1000))))


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> ErrorDetails:
    """Details found in the trailing metadata of a failed call, empty where there are none."""
    texts = {key: value for key, value in metadata if isinstance(value, str)}
    return ErrorDetails(
        field=unquote(texts.get(FIELD_KEY, "")),
        got=unquote(texts.get(GOT_KEY, "")),
        expected=unquote(texts.get(EXPECTED_KEY, "")),
        retry_after_seconds=_seconds(texts.get(PUSHBACK_KEY, "")),
    )


def _quote(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 1] + "…"
    return quote(text, safe=_PLAIN)


def _seconds(milliseconds: str) -> float | None:
    """None also for the negative number with which a server forbids retries."""
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else None
