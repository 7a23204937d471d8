"""Answers: JSON, bytes that are compressed for clients that ask for it, errors in one form."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.rest.encodings import KNOWN, choose_encoding, compress
from seqlens.errors import (
    BodyTooLarge,
    BodyTooSlow,
    NotAuthenticated,
    Overloaded,
    SeqLensError,
    UnknownEncoding,
)

JSON = "application/json"
BINARY = "application/octet-stream"

# A smaller answer fits into one packet as it is.
COMPRESSED_FROM_BYTES = 1 << 10


class Answer(Response):
    """An answer that is compressed when it is sent."""

    def __init__(self, data: bytes, headers: Mapping[str, str], encoding: str | None) -> None:
        super().__init__(data, headers=headers)
        self._encoding = encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if self._encoding is not None:
            # Twice its size stands for the slowness of compressing.
            size = 2 * len(self.body)
            self.body = await off_loop_if_large(size, compress, bytes(self.body), self._encoding)
            self.headers["content-length"] = str(len(self.body))
            self.headers["content-encoding"] = self._encoding
        await super().__call__(scope, receive, send)


def json_answer(value: object, *, status: int = 200) -> Response:
    """A value as JSON, never compressed.

    tritonclient for asyncio asks for gzip with every request, whatever it is, and undoes it in
    answers to inference alone.
    """
    return Response(orjson.dumps(value), status, {"content-type": JSON})


def bytes_answer(
    request: Request,
    data: bytes | Sequence[bytes],
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Bytes, or several pieces of them one after the other; binary unless headers say what."""
    whole = data if isinstance(data, bytes) else b"".join(data)
    sent = {"content-type": BINARY, **(headers or {})}
    if len(whole) < COMPRESSED_FROM_BYTES:
        return Response(whole, headers=sent)
    sent["vary"] = "accept-encoding"
    accept = ",".join(request.headers.getlist("accept-encoding"))
    return Answer(whole, sent, choose_encoding(accept) if accept else None)


def error_answer(error: SeqLensError) -> Response:
    """An error as JSON: ``error`` is its text, the other keys are its parts that are known."""
    parts = {"field": error.field, "got": error.got, "expected": error.expected}
    body = {"error": str(error) or type(error).__name__}
    body |= {name: text for name, text in parts.items() if text}
    return error_body(body, error.http_status, _error_headers(error))


def error_body(body: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    """An error from its parts; ``error`` must not be empty."""
    return Response(error_json(body), status, {"content-type": JSON, **headers})


def error_json(body: Mapping[str, Any]) -> bytes:
    """JSON of texts, whatever characters clients have made us put into them."""
    # What is no character, half of a surrogate pair, has no place in JSON.
    clean = {name: text.encode("utf-8", "replace").decode() for name, text in body.items()}
    return orjson.dumps(clean)


def _error_headers(error: SeqLensError) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {"retry-after": str(max(1, ceil(error.retry_after_seconds)))}
    if isinstance(error, UnknownEncoding):
        return {"accept-encoding": ", ".join(KNOWN)}
    if isinstance(error, NotAuthenticated):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, BodyTooLarge | BodyTooSlow):
        # The rest of the body may still be on its way.
        return {"connection": "close"}
    return {}
