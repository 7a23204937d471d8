"""HTTP/1.1 by hand: what is sent is exactly what a test says, right or wrong."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """An answer as it came; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"].split(";")[0] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        text = self.json["error"]
        assert isinstance(text, str)
        assert text
        return text


class Wire:
    """One connection."""

    def __init__(self, connection: socket.socket, file: BinaryIO) -> None:
        self.socket = connection
        self._file = file

    def send(self, data: bytes | str) -> "Wire":
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def answer(self, *, has_body: bool = True) -> WireAnswer:
        """The next answer; one without length or chunks lasts until the connection ends."""
        version, status, *_ = self._line().split(" ", 2)
        assert version == "HTTP/1.1", version
        headers = {}
        while line := self._line():
            name, _, value = line.partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name.lower()] = value
        body = self._body(headers) if has_body and status not in ("100", "204") else b""
        return WireAnswer(int(status), headers, body)

    def ended(self) -> bool:
        """Whether the server closes the connection, and says nothing more."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def _line(self) -> str:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the connection ended within an answer: {line!r}"
        return line[:-2].decode("latin-1")

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            assert "transfer-encoding" not in headers
            body = self._file.read(length := int(headers["content-length"]))
            assert len(body) == length
            return body
        if headers.get("transfer-encoding") != "chunked":
            return self._file.read()
        body = b""
        while size := int(self._line(), 16):
            body += self._file.read(size)
            assert self._line() == ""
        assert self._line() == ""
        return body


@contextmanager
def wire(address: str, timeout: float = 10.0) -> Iterator[Wire]:
    """A connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout) as connection,
        connection.makefile("rb") as file,
    ):
        yield Wire(connection, file)


def head(method: str, path: str, *lines: str, version: str = "1.1") -> str:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: test", *lines, "", ""])


def post(path: str, body: bytes, *lines: str) -> bytes:
    """A whole request with a body of known length."""
    return head("POST", path, f"content-length: {len(body)}", *lines).encode() + body


def ask(address: str, request: bytes | str) -> WireAnswer:
    """The answer to one request on a connection of its own."""
    with wire(address) as connection:
        return connection.send(request).answer(has_body=request[:4] not in (b"HEAD", "HEAD"))
