"""What is answered below the application: to what is no request, and to old clients."""

from collections.abc import Iterable
from http import HTTPStatus

from seqlens.api.rest.answers import JSON, error_json


def write_refusal(
    status: HTTPStatus, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A whole answer, head and body, that is the last of its connection."""
    body = error_json({"error": text})
    lines = [
        f"HTTP/1.1 {status} {status.phrase}".encode(),
        *(name + b": " + value for name, value in headers),
        f"content-type: {JSON}".encode(),
        f"content-length: {len(body)}".encode(),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", body])


class _AnyLength(int):
    """The length of an answer that ends when it ends: nothing is too long or too short for it."""

    def __lt__(self, other: int) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: int) -> "_AnyLength":
        return self


ANY_LENGTH = _AnyLength()
