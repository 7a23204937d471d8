"""Bodies over the wire: chunked, compressed, expected, too large, too slow."""

import gzip
import socket
import time
import zlib
from typing import Any

import pytest
from tests.support.http_wire import Wire, ask, head, post, wire

CHUNKED = "transfer-encoding: chunked"
EXPECT = "expect: 100-continue"
LIMIT = 4 << 20  # of the ``probe``
BODY = b"0123456789" * 1_000


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 10_000, 65_535, 300_000, LIMIT])
def test_bodies_of_known_length(size: int, probe: Any) -> None:
    body = (BODY * (size // len(BODY) + 1))[:size]
    answer = ask(probe.address, post("/echo", body))
    assert (answer.status, answer.body == body) == (200, True)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunked_bodies(size: int, probe: Any) -> None:
    request = head("POST", "/echo", CHUNKED).encode() + chunked(BODY, size)
    assert ask(probe.address, request).body == BODY


def test_chunk_extensions_and_trailers_are_let_go(probe: Any) -> None:
    request = head("POST", "/echo", CHUNKED, "trailer: content-encoding") + (
        "4;name=value\r\nabcd\r\n0\r\ncontent-encoding: br\r\n\r\n"
    )
    with wire(probe.address) as connection:
        for _ in range(2):
            answer = connection.send(request).answer()
            assert (answer.status, answer.body) == (200, b"abcd")


def test_a_body_that_comes_byte_by_byte(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/echo", b"slowly", "content-encoding: identity"):
            connection.send(bytes([byte]))
        assert connection.answer().body == b"slowly"


def zipped(data: bytes) -> bytes:
    """Without the time of day, which would give a test another name in every process."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", zipped(BODY)),
        ("GZip", zipped(BODY[:5_000]) + zipped(BODY[5_000:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("deflate, gzip", zipped(zlib.compress(BODY))),
        ("identity", BODY),
    ],
)
def test_compressed_bodies(encoding: str, data: bytes, probe: Any) -> None:
    line = f"content-encoding: {encoding}"
    assert ask(probe.address, post("/echo", data, line)).body == BODY
    request = head("POST", "/echo", CHUNKED, line).encode() + chunked(data, 13)
    assert ask(probe.address, request).body == BODY


def test_encodings_in_several_headers_were_applied_in_their_order(probe: Any) -> None:
    data = gzip.compress(zlib.compress(BODY))
    lines = ("content-encoding: deflate", "Content-Encoding: gzip")
    assert ask(probe.address, post("/echo", data, *lines)).body == BODY


@pytest.mark.parametrize(
    ("status", "encoding", "data"),
    [
        (400, "gzip", b"this is not gzip"),
        (400, "gzip", zipped(BODY)[:-1]),
        (400, "gzip", zipped(BODY) + b"rest"),
        (400, "deflate", b"\xff\xff\xff"),
        (400, "deflate", zlib.compress(BODY)[:-1]),
        (415, "br", BODY),
        (415, "gzip, snappy", BODY),
    ],
)
def test_bad_compression_is_refused_and_the_connection_goes_on(
    status: int, encoding: str, data: bytes, probe: Any
) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(post("/echo", data, f"content-encoding: {encoding}")).answer()
        assert answer.status == status
        assert "encoding" in answer.error if status == 415 else "damaged" in answer.error
        assert connection.send(post("/echo", b"good")).answer().body == b"good"


def test_a_body_compressed_on_its_way_is_refused_and_the_connection_goes_on(probe: Any) -> None:
    """The parser undoes the chunks alone: what is in them is not the body yet."""
    coded = head("POST", "/echo", "transfer-encoding: gzip, chunked").encode()
    with wire(probe.address) as connection:
        answer = connection.send(coded + chunked(gzip.compress(BODY), 1_000)).answer()
        assert (answer.status, "transfer-encoding" in answer.error) == (415, True)
        assert connection.send(post("/echo", b"good")).answer().body == b"good"


def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(probe: Any) -> None:
    for length in (LIMIT + 1, 10**12, 2**63 - 1):
        with wire(probe.address) as connection:
            connection.send(head("POST", "/echo", f"content-length: {length}"))
            answer = connection.answer()
            assert answer.status == 413
            assert answer.headers["connection"] == "close"
            assert str(LIMIT) in answer.error
            assert connection.ended()


def test_a_client_that_sends_all_of_a_body_that_is_too_large_still_gets_its_answer(
    probe: Any,
) -> None:
    """Closing while it sends would reset the connection, and the answer would be lost."""
    answer = ask(probe.address, post("/echo", bytes(LIMIT * 3)))
    assert answer.status == 413


def test_chunks_beyond_the_limit_are_refused(probe: Any) -> None:
    request = head("POST", "/echo", CHUNKED).encode() + chunked(bytes(LIMIT + 1), 1 << 18)
    answer = ask(probe.address, request)
    assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_bombs_are_refused_and_do_not_grow_the_memory(probe: Any) -> None:
    bomb = gzip.compress(bytes(1 << 28))
    ask(probe.address, post("/echo", bytes(LIMIT)))
    before = probe.seen()["peak"]
    for data, encoding in ((bomb, "gzip"), (gzip.compress(bomb), "gzip, gzip")):
        answer = ask(probe.address, post("/echo", data, f"content-encoding: {encoding}"))
        assert answer.status == 413
        assert "decompressed" in answer.error
    assert probe.seen()["peak"] - before < 3 * LIMIT >> 20


def test_the_body_is_called_for_when_it_is_expected(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.send(head("POST", "/echo", "content-length: 4", "Expect: 100-Continue"))
        assert connection.answer().status == 100
        assert connection.send("body").answer().body == b"body"
        assert connection.send(post("/echo", b"next")).answer().body == b"next"


def test_a_body_that_comes_without_being_called_for_is_taken(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.send(post("/echo", b"body", EXPECT))
        answers = [connection.answer()]
        if answers[0].status == 100:
            answers.append(connection.answer())
        assert answers[-1].body == b"body"


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("/echo", (f"content-length: {LIMIT + 1}",), 413),
        ("/echo", ("content-length: 4", "content-encoding: br"), 415),
        ("/nowhere", ("content-length: 4",), 404),
        ("/seen", ("content-length: 4",), 405),
    ],
)
def test_what_is_refused_is_not_called_for(
    path: str, lines: tuple[str, ...], status: int, probe: Any
) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(head("POST", path, EXPECT, *lines)).answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert connection.ended()


def test_http_1_0_knows_no_100(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.send(head("POST", "/echo", EXPECT, "content-length: 4", version="1.0"))
        time.sleep(0.1)
        assert connection.send("body").answer().body == b"body"


@pytest.mark.parametrize("sent", [b"", b"part"])
def test_a_slow_body_is_given_up(sent: bytes, hasty: Any) -> None:
    with wire(hasty.address) as connection:
        connection.send(head("POST", "/echo", "content-length: 9").encode() + sent)
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert f"{len(sent)} bytes" in answer.error
        assert "limits.body_timeout_seconds" in answer.error
        assert connection.ended()


def test_a_body_that_trickles_gets_no_more_time(hasty: Any) -> None:
    start = time.monotonic()
    with wire(hasty.address) as connection:
        trickle(connection.send(head("POST", "/echo", CHUNKED)), b"1\r\nx\r\n")
        assert connection.answer().status == 408
    assert time.monotonic() - start < 3


def trickle(connection: Wire, data: bytes) -> None:
    """Send again and again until there is an answer."""
    connection.socket.settimeout(0.05)
    for _ in range(100):
        connection.send(data)
        try:
            connection.socket.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            continue
    connection.socket.settimeout(10)
