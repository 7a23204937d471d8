"""A request of lines over a socket, answered line by line while it is still being sent."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tests.support.http_wire import Wire, head, wire

CONTENT_TYPE = "content-type: application/x-ndjson"


class LineStream:
    """The two directions of one request; nothing is read or sent but what a test asks for."""

    def __init__(self, connection: Wire, file: BinaryIO) -> None:
        self.socket = connection.socket
        self.status = 0
        self._file = file
        self._left = b""  # of a chunk that has not ended a line

    def send(self, *values: Any) -> None:
        """Send values as JSON, bytes as they are, each a line."""
        lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in values]
        self.send_bytes(b"".join(line + b"\n" for line in lines))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def begin(self) -> None:
        """Read the head of the answer."""
        self.status = int(self._file.readline().split()[1])
        while self._file.readline() != b"\r\n":
            pass

    def line(self) -> Any:
        """The next line of the answer; None at its end."""
        if not self.status:
            self.begin()
        while b"\n" not in self._left:
            size = int(self._file.readline(), 16)
            data = self._file.read(size)
            assert self._file.read(2) == b"\r\n"
            if not size:
                assert not self._left, "the answer ends within a line"
                return None
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def rest(self) -> list[Any]:
        """All lines up to the end of the answer."""
        return list(iter(self.line, None))


@contextmanager
def line_stream(address: str, model: str, *lines: str, query: str = "") -> Iterator[LineStream]:
    """Begin a request to a model, with further lines of its head."""
    path = f"/v1/models/{model}/process{query}"
    with wire(address) as connection, connection.socket.makefile("rb") as file:
        connection.send(head("POST", path, CONTENT_TYPE, "transfer-encoding: chunked", *lines))
        yield LineStream(connection, file)
