"""Lines of a body as they come: bounded, decompressed piece by piece."""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator

from seqlens.errors import InvalidRequest, MessageTooLarge

# Decompressed at a time: what is made of a chunk must not be in memory at once.
PIECE_BYTES = 1 << 16

_FRAMES = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

Line = tuple[int, bytes]  # its number, counted from 1, and its bytes without the end of line


class Lines:
    """Cuts chunks into lines. Those of nothing but white space count, and are left out.

    ``error`` is set once a line has more than ``most_bytes``, after which there are no more.
    """

    def __init__(self, most_bytes: int) -> None:
        self.error: MessageTooLarge | None = None
        self._most_bytes = most_bytes
        self._begun = bytearray()  # of a line whose end has not come
        self._number = 1

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk."""
        if not self._begun and chunk.isspace():
            # Compressed, they cost their sender nothing.
            self._number += chunk.count(b"\n")
            chunk = chunk[chunk.rfind(b"\n") + 1 :]
        *ended, begun = chunk.split(b"\n")
        for part in ended:
            yield from self._take(part)
            if self.error:
                return
        self._begun += begun
        self._check(len(self._begun))

    def end(self) -> Iterator[Line]:
        """The last line, where it has no end."""
        if self.error is None:
            yield from self._take(b"")

    def _take(self, part: bytes) -> Iterator[Line]:
        line = part
        if self._begun:
            line = bytes(self._begun + part)
            self._begun.clear()
        self._check(len(line))
        if self.error is None and line and not line.isspace():
            yield self._number, line
        self._number += 1

    def _check(self, size: int) -> None:
        if size > self._most_bytes:
            self.error = MessageTooLarge(
                f"line {self._number}",
                got=f"more than {self._most_bytes} bytes",
                expected=f"at most {self._most_bytes} (limits.max_message_bytes)",
            )


async def decompressed(chunks: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Pieces of at most ``PIECE_BYTES`` from chunks of gzip or deflate.

    Raises ``InvalidRequest`` for data that is damaged or ends early.
    """
    member, begun = zlib.decompressobj(_FRAMES[encoding]), False
    async for data in chunks:
        while data or begun:
            begun = True
            try:
                piece = member.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _damaged(encoding, str(error)) from None
            yield piece
            # A little data may hold very much: others get their turn.
            await asyncio.sleep(0)
            data = member.unconsumed_tail
            if member.eof:  # gzip may go on with another member
                data, begun = member.unused_data, False
                member = zlib.decompressobj(_FRAMES[encoding])
            elif not data and len(piece) < PIECE_BYTES:
                break
    if begun:
        raise _damaged(encoding, "it ends early")


def _damaged(encoding: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        "body", got=f"damaged {encoding} data: {why}", expected=f"a whole {encoding} body"
    )
