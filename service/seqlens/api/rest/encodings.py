"""Content encodings: which one to answer with, compressing, and decompressing within a bound."""

import zlib
from collections.abc import Sequence

from seqlens.errors import BodyTooLarge, InvalidRequest, UnknownEncoding

KNOWN = ("gzip", "deflate")
# Each level of compression makes a bomb a thousand times stronger, and honest clients use one.
MAX_ENCODINGS = 3
# A member costs about 5 µs however little is in it; block-wise gzip has one for each 64 KiB.
MAX_MEMBERS = 10_000

# What zlib calls window bits: the sign and size tell which frame is around the data.
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# Fast: on numbers as text, higher levels take far longer and save little.
_LEVEL = 1
# Compressed bytes given to a member at first: what it leaves over is copied, member by member.
_FIRST_PIECE, _LARGEST_PIECE = 1 << 9, 1 << 18


def read_encodings(header: str) -> tuple[str, ...]:
    """Encodings named by a ``Content-Encoding`` header, in the order they were applied.

    Raises ``UnknownEncoding``.
    """
    names = [name.strip().lower().removeprefix("x-") for name in header.split(",")]
    encodings = tuple(name for name in names if name not in ("", "identity"))
    if any(name not in KNOWN for name in encodings) or len(encodings) > MAX_ENCODINGS:
        raise UnknownEncoding(
            field="content-encoding",
            got=repr(header[:100]),
            expected=f"gzip, deflate or identity, at most {MAX_ENCODINGS} of them",
        )
    return encodings


def decompress(data: bytes, encodings: Sequence[str], limit: int) -> bytes:
    """Take off the encodings, the last one first.

    No more than ``limit`` bytes are ever made of ``data``: beyond that ``BodyTooLarge`` is
    raised. Raises ``InvalidRequest`` for data that is damaged, ends early or goes on after its
    end.
    """
    for encoding in reversed(encodings):
        data = _inflate(data, encoding, limit)
    return data


def choose_encoding(accept: str) -> str | None:
    """The encoding to answer with, from an ``Accept-Encoding`` header; None: as it is.

    That with the highest ``q``, gzip where they tie. What cannot be read counts as not accepted.
    """
    qualities = dict(_quality(part) for part in accept.lower().split(","))
    others = qualities.get("*", 0.0)
    plain = qualities.get("identity", 0.0)
    best = max(KNOWN, key=lambda name: qualities.get(name, others))
    quality = qualities.get(best, others)
    return best if quality > 0 and quality >= plain else None


def compress(data: bytes, encoding: str) -> bytes:
    """Data in one of the ``KNOWN`` encodings."""
    bits = _GZIP if encoding == "gzip" else _ZLIB
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    return compressor.compress(data) + compressor.flush()


def _quality(part: str) -> tuple[str, float]:
    name, _, parameter = part.partition(";")
    name, parameter = name.strip().removeprefix("x-"), parameter.strip()
    if not parameter:
        return name, 1.0
    try:
        quality = float(parameter.removeprefix("q").strip().removeprefix("="))
    except ValueError:
        return name, 0.0
    return name, quality if 0 <= quality <= 1 else 0.0


def _inflate(data: bytes, encoding: str, limit: int) -> bytes:
    bits = _GZIP if encoding == "gzip" else _deflate_frame(data)
    pieces: list[bytes] = []
    at, room = 0, limit
    for _ in range(MAX_MEMBERS):
        try:
            piece, at = _inflate_member(data, at, bits, room, limit)
        except zlib.error as error:
            raise _damaged(encoding, str(error)) from None
        pieces += piece
        room -= sum(map(len, piece))
        if at == len(data):
            return b"".join(pieces)
        if bits != _GZIP:
            break
    raise _damaged(encoding, f"{len(data) - at} bytes after its end")


def _inflate_member(
    data: bytes, at: int, bits: int, room: int, limit: int
) -> tuple[list[bytes], int]:
    """What is in the member that begins ``at``, and where it ends."""
    member = zlib.decompressobj(bits)
    pieces: list[bytes] = []
    step = _FIRST_PIECE
    while not member.eof:
        given = data[at : at + step]
        if not given:
            raise zlib.error("it ends early")
        piece = member.decompress(given, room + 1)
        room -= len(piece)
        if room < 0:
            raise BodyTooLarge(f"more than {limit} bytes once decompressed", limit)
        pieces.append(piece)
        at += len(given) - len(member.unused_data)
        step = min(step * 2, _LARGEST_PIECE)
    return pieces, at


def _deflate_frame(data: bytes) -> int:
    """``deflate`` means zlib's frame, but many clients have always sent bare data."""
    framed = len(data) > 1 and data[0] & 0x8F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _ZLIB if framed else _RAW


def _damaged(encoding: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        "body", got=f"damaged {encoding} data: {why}", expected=f"a whole {encoding} body"
    )
