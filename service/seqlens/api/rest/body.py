"""The body of a request: bounded in size and time, decompressed."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import Receive

from seqlens.api.rest.encodings import decompress, read_encodings
from seqlens.errors import BodyTooLarge, BodyTooSlow, UnknownEncoding
from seqlens.settings import LimitSettings

# A thousand times as much may come out of compressed data: more is not for the event loop.
_SMALL_BYTES = 1 << 10


async def read_body(request: Request, limits: LimitSettings) -> bytes:
    """The whole body, decompressed.

    Raises ``BodyTooLarge`` where it is more than ``limits.max_message_bytes``, as sent (before
    it is read where the client tells its length) or decompressed, ``BodyTooSlow`` where it takes
    longer than ``limits.body_timeout_seconds``, ``UnknownEncoding``, and ``InvalidRequest`` for
    damaged data.
    """
    encodings = check_headers(request.scope["headers"], limits.max_message_bytes)
    data = await _receive_all(request.receive, limits)
    if not data or not encodings:
        return data
    if len(data) <= _SMALL_BYTES and len(encodings) == 1:
        return decompress(data, encodings, limits.max_message_bytes)
    return await asyncio.to_thread(decompress, data, encodings, limits.max_message_bytes)


def check_headers(headers: Sequence[tuple[bytes, bytes]], limit: int | None) -> tuple[str, ...]:
    """The body's encodings, in the order they were applied.

    Raises ``BodyTooLarge``, where it has a limit in bytes, and ``UnknownEncoding`` for what the
    headers alone show to be wrong.
    """
    encodings: tuple[str, ...] = ()
    for name, value in headers:
        if name == b"content-encoding":
            encodings = read_encodings(",".join([*encodings, value.decode("latin-1")]))
        elif name == b"content-length" and limit is not None and int(value) > limit:
            raise BodyTooLarge(f"{int(value)} bytes", limit)
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            # The parser sees to the chunks alone: what is in them would be compressed still.
            raise UnknownEncoding(
                field="transfer-encoding", got=repr(value[:100])[1:], expected="'chunked'"
            )
    return encodings


async def _receive_all(receive: Receive, limits: LimitSettings) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(limits.body_timeout_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    # As the protocol would have it a moment later.
                    raise asyncio.CancelledError
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limits.max_message_bytes:
                    raise BodyTooLarge(
                        f"more than {limits.max_message_bytes} bytes", limits.max_message_bytes
                    )
                chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyTooSlow(
            field="body",
            got=f"{size} bytes in {limits.body_timeout_seconds} s",
            expected="all of it in that time (limits.body_timeout_seconds)",
        ) from None
    return b"".join(chunks) if len(chunks) > 1 else chunks[0]
