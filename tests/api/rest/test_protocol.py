"""One connection and what clients may do on it, right or wrong."""

import time
from typing import Any

import pytest
from tests.support.http_wire import ask, head, post, wire

SEEN = head("GET", "/seen")


def wait_until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# Requests one after the other


def test_pipelined_requests_are_answered_in_their_order(probe: Any) -> None:
    requests = [post("/wait/0.1", b"")] + [post("/echo", b"%d" % i) for i in range(300)]
    with wire(probe.address) as connection:
        connection.send(b"".join(requests))
        assert connection.answer().json == "waited"
        assert [connection.answer().body for _ in range(300)] == [b"%d" % i for i in range(300)]
        assert connection.send(SEEN).answer().status == 200


def test_pipelined_requests_beyond_what_is_taken_at_once(probe: Any) -> None:
    """Half a megabyte of requests behind one that takes its time, cut anywhere."""
    with wire(probe.address) as connection:
        connection.send(post("/wait/0.3", b"") + (head("GET", "/path/x") * 10_000).encode())
        assert connection.answer().json == "waited"
        for _ in range(10_000):
            assert connection.answer().body == b'["x",""]'


def test_a_connection_is_used_again_and_again(probe: Any) -> None:
    with wire(probe.address) as connection:
        for number in range(50):
            answer = connection.send(post("/echo", b"%d" % number)).answer()
            assert answer.body == b"%d" % number
            assert "connection" not in answer.headers


@pytest.mark.parametrize("line", ["connection: close", "Connection: Close, TE"])
def test_a_connection_is_closed_where_the_client_wants_it(line: str, probe: Any) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(head("GET", "/seen", line)).answer()
        assert answer.headers["connection"] == "close"
        assert connection.ended()


def test_a_body_that_nobody_reads_does_not_get_in_the_way(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.send(head("POST", "/nowhere", "content-length: 100000"))
        assert connection.answer().status == 404
        assert connection.send(bytes(100_000) + SEEN.encode()).answer().json["begun"] >= 0


# Old and odd clients


def test_http_1_0_gets_an_answer_and_the_end(probe: Any) -> None:
    with wire(probe.address) as connection:
        answer = connection.send("GET /path/old HTTP/1.0\r\n\r\n").answer()
        assert (answer.json, answer.headers["connection"]) == (["old", ""], "close")
        assert connection.ended()


def test_http_1_0_gets_streams_without_chunks(probe: Any) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(head("GET", "/stream/5", version="1.0")).answer()
    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"x" * 5 * 65_536
    assert ask(probe.address, head("GET", "/stream/5")).body == answer.body


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_offer_of_another_protocol_is_passed_over(protocol: str, probe: Any) -> None:
    """Some clients offer HTTP/2 with their first request, and go on with the next."""
    offer = (f"upgrade: {protocol}", "connection: Upgrade, HTTP2-Settings", "http2-settings: AAMA")
    with wire(probe.address) as connection:
        assert connection.send(post("/echo", b"one", *offer)).answer().body == b"one"
        connection.send(head("GET", "/path/two", *offer) + SEEN)
        assert connection.answer().json == ["two", ""]
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    "request_head",
    [
        "GET /path/x HTTP/1.1\r\nHOST: test\r\nX-Empty:\r\n\r\n",
        "\r\nGET /path/x HTTP/1.1\r\nhost:test  \r\n\r\n",
        "GET /path/x HTTP/1.1\r\nhost: test\r\nx-name: caf\u00e9\r\n\r\n",
    ],
)
def test_odd_but_valid_heads_are_read(request_head: str, probe: Any) -> None:
    assert ask(probe.address, request_head).json == ["x", ""]


# What is not HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /seen HTTP/9.9\r\n\r\n",
        b"GET /s een HTTP/1.1\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n",
        head("GET", "/seen", "no colon").encode(),
        head("GET", "/seen", "space : before").encode(),
        head("GET", "/seen", "x: a\0b").encode(),
        head("POST", "/echo", "content-length: four").encode() + b"body",
        head("POST", "/echo", "content-length: -4").encode() + b"body",
        head("POST", "/echo", "content-length: 9" + "9" * 30).encode() + b"body",
    ],
)
def test_what_is_not_http_is_refused_in_json(request_bytes: bytes, probe: Any) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(request_bytes).answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.error
        assert connection.ended()


HIDDEN = SEEN  # what an attacker wants to be taken for a request of the next client


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["content-length: 5", "transfer-encoding: chunked"], "0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: chunked", "content-length: 5"], "0\r\n\r\n" + HIDDEN),
        (["content-length: 0", f"content-length: {len(HIDDEN)}"], HIDDEN),
        (["transfer-encoding: chunked, identity"], "0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: gzip"], HIDDEN),
        (["transfer-encoding: xchunked"], "0\r\n\r\n" + HIDDEN),
        (["transfer-encoding : chunked"], "0\r\n\r\n" + HIDDEN),
        ([f"content-length: +{len(HIDDEN)}"], HIDDEN),
        (["transfer-encoding: chunked"], "0x4\r\nbody\r\n0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: chunked"], "-1\r\nbody\r\n0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: chunked"], "4\nbody\r\n0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: chunked"], "4\r\nbodyXX0\r\n\r\n" + HIDDEN),
        (["transfer-encoding: chunked"], "fffffffffffffffff\r\nbody" + HIDDEN),
    ],
)
def test_requests_that_two_servers_may_read_differently_are_refused(
    lines: list[str], body: str, probe: Any
) -> None:
    with wire(probe.address) as connection:
        connection.send(head("POST", "/echo", *lines) + body)
        assert connection.answer().status == 400
        assert connection.ended()


def test_nonsense_after_requests_waits_for_their_answers(probe: Any) -> None:
    with wire(probe.address) as connection:
        connection.send(post("/wait/0.2", b"") + post("/echo", b"second") + b"nonsense\r\n\r\n")
        assert connection.answer().json == "waited"
        assert connection.answer().body == b"second"
        assert connection.answer().status == 400
        assert connection.ended()


def test_a_body_that_breaks_after_requests_waits_for_their_answers(probe: Any) -> None:
    broken = head("POST", "/echo", "transfer-encoding: chunked") + "nonsense\r\n"
    with wire(probe.address) as connection:
        connection.send(post("/wait/0.2", b"") + broken.encode())
        assert connection.answer().json == "waited"
        assert connection.answer().status == 400
        assert connection.ended()


# Too much, too slow


@pytest.mark.parametrize(
    "endless",
    [
        head("GET", "/seen").removesuffix("\r\n") + "x: " + "y" * 100_000,
        head("GET", "/seen").removesuffix("\r\n") + "x: y\r\n" * 20_000,
        "GET /" + "y" * 100_000,
        head("POST", "/echo", "transfer-encoding: chunked") + "4;" + "y" * 100_000,
        head("POST", "/echo", "transfer-encoding: chunked") + "0\r\n" + "x: y\r\n" * 20_000,
    ],
)
def test_heads_extensions_and_trailers_without_end_are_refused(endless: str, probe: Any) -> None:
    with wire(probe.address) as connection:
        answer = connection.send(endless).answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert answer.error
        assert connection.ended()


def test_a_head_of_many_kilobytes_is_read(probe: Any) -> None:
    lines = [f"x-{number}: {'y' * 1_000}" for number in range(30)]
    assert ask(probe.address, head("GET", "/seen", *lines)).status == 200


def test_a_connection_on_which_no_request_begins_is_closed(hasty: Any) -> None:
    with wire(hasty.address) as connection:
        assert connection.ended()


@pytest.mark.parametrize("before", ["", SEEN, "\r\n"])
def test_a_head_that_takes_too_long_is_refused(before: str, hasty: Any) -> None:
    with wire(hasty.address) as connection:
        connection.send(before + SEEN[:-2])
        if before == SEEN:
            assert connection.answer().status == 200
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "limits.header_timeout_seconds" in answer.error
        assert connection.ended()


def test_a_head_that_trickles_gets_no_more_time(hasty: Any) -> None:
    start = time.monotonic()
    with wire(hasty.address) as connection:
        connection.send(SEEN[:-2])
        for _ in range(8):
            time.sleep(0.04)
            connection.send("x: y\r\n")
        assert connection.answer().status == 408
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("sent", ["", "\r\n"])
def test_an_idle_connection_is_closed_after_its_time(sent: str, hasty: Any) -> None:
    with wire(hasty.address) as connection:
        assert connection.send(SEEN).answer().status == 200
        start = time.monotonic()
        connection.send(sent)
        assert connection.ended()
        assert 0.3 < time.monotonic() - start < 3


def test_a_request_may_take_longer_than_any_of_these_times(hasty: Any) -> None:
    with wire(hasty.address) as connection:
        assert connection.send(post("/wait/1.0", b"")).answer().json == "waited"
        assert connection.send(SEEN).answer().status == 200


def test_a_client_that_reads_nothing_of_a_stream_is_cut_off(hasty: Any) -> None:
    with wire(hasty.address) as connection:
        connection.send(head("GET", "/stream/2000"))
        time.sleep(1.5)
        with pytest.raises((AssertionError, ConnectionResetError)):
            connection.answer()


def test_a_large_answer_may_be_read_for_longer_than_an_idle_connection_lasts(hasty: Any) -> None:
    got, size, start = 0, 40_000_000, time.monotonic()
    with wire(hasty.address) as connection:
        connection.send(head("GET", f"/bytes/{size}"))
        while got < size:
            data = connection.socket.recv(1 << 20)
            assert data, f"cut off after {got} bytes"
            got += len(data)
            time.sleep(0.03)
    assert time.monotonic() - start > 1.0


def test_a_client_that_reads_slowly_is_not_cut_off(hasty: Any) -> None:
    count, got = 300, 0
    with wire(hasty.address) as connection:
        connection.send(head("GET", f"/stream/{count}", version="1.0"))
        while data := connection.socket.recv(1 << 20):
            got += len(data)
            time.sleep(0.02)
    assert got > count * 65_536


# Leaving


def test_a_client_that_hangs_up_has_its_work_cancelled_at_once(probe: Any) -> None:
    before = probe.seen()
    with wire(probe.address) as connection:
        connection.send(post("/wait/30", bytes(200_000)))
        wait_until(lambda: probe.seen()["begun"] > before["begun"])
    wait_until(lambda: probe.seen()["left"] > before["left"], seconds=1)


def test_a_client_that_hangs_up_while_it_sends_is_forgotten_in_silence(probe: Any) -> None:
    for part in (b"", b"{", bytes(100_000)):
        with wire(probe.address) as connection:
            connection.send(head("POST", "/echo", "content-length: 200000").encode() + part)
    # The log of the server is looked at when it ends.
    assert ask(probe.address, SEEN).status == 200
