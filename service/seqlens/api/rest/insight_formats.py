"""In which form an answer about the inside of a model is sent, and its bytes."""

from collections.abc import Sequence
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from seqlens.api.insight.bertviz import write_bertviz
from seqlens.api.insight.heatmap import render_page
from seqlens.api.insight.npz import write_npz
from seqlens.api.insight.plain_data import InsightData
from seqlens.api.message_bounds import shown
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.rest.answers import JSON, bytes_answer
from seqlens.api.rest.ndjson import MEDIA_TYPE as LINES
from seqlens.api.rest.ndjson import MEDIA_TYPES as ALL_LINES
from seqlens.api.rest.sequence_answers import JSON_COST, to_json
from seqlens.errors import InvalidRequest, MapsTooLarge

NPZ = "application/x-npz"
HTML = "text/html"
_HTML_UTF8 = "text/html; charset=utf-8"  # what it is sent as

_ACCEPTED = {
    **dict.fromkeys((JSON, "application/*", "*/*"), "json"),
    **dict.fromkeys(ALL_LINES, "ndjson"),
    NPZ: "npz",
    "application/zip": "npz",
    HTML: "html",
}
_SENT = {"json": JSON, "bertviz": JSON, "npz": NPZ, "html": _HTML_UTF8}
# Parts of the data that stand beside what all answers begin with, in JSON without a level.
_PARTS = ("attention", "influence", "gates")


def choose_format(request: Request, asked: str, offered: Sequence[str]) -> str:
    """The form asked for in the body, else one that is accepted, else JSON.

    Raises ``InvalidRequest`` for one that is not offered.
    """
    if asked:
        if asked not in offered:
            named = ", ".join(repr(one) for one in offered)
            raise InvalidRequest("format", got=repr(shown(asked)), expected=f"one of {named}")
        return asked
    accept = ",".join(request.headers.getlist("accept"))
    forms = (_ACCEPTED.get(media_type, "") for media_type in _by_quality(accept.lower()))
    return next((form for form in forms if form in offered), "json")


def _by_quality(accept: str) -> list[str]:
    """Media types of an ``Accept`` header that are accepted at all, the best first."""
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            qualities[media_type] = float(quality)
        except ValueError:
            qualities[media_type] = 0.0
    best = sorted(qualities, key=lambda media_type: -qualities[media_type])
    return [media_type for media_type in best if qualities[media_type] > 0]


async def answer_in(
    request: Request, data: InsightData, form: str, size: int, most: int
) -> Response:
    """The whole answer, whose arrays have ``size`` bytes. Raises ``MapsTooLarge``."""
    body = await off_loop_if_large(JSON_COST * size, _written, data, form)
    if len(body) > most:
        raise too_large(len(body), most)
    return bytes_answer(request, body, headers={"content-type": _SENT[form]})


def too_large(size: int, most: int) -> MapsTooLarge:
    """The error of an answer that does not fit into one message."""
    return MapsTooLarge(
        "answer",
        got=f"{size} bytes or more",
        expected=f"at most {most} (limits.max_message_bytes): choose fewer layers, heads or "
        f"positions, fewer sequences, or lines ({LINES}), which may be more in all",
    )


def _written(data: InsightData, form: str) -> bytes:
    if form == "npz":
        return write_npz(data)
    if form == "html":
        return render_page(data).encode()
    return to_json(write_bertviz(data) if form == "bertviz" else _flat(data))


def _flat(data: InsightData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= cast(dict[str, Any], value) if name in _PARTS else {name: value}
    return flat
