"""Lines of sequences over a real socket: full duplex, bounded, and cleared away."""

import gzip
import json
import signal
import threading
import time
import zlib
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.conftest import RunningServer, StartServer
from tests.support.http_wire import ask, head, post
from tests.support.line_stream import CONTENT_TYPE, LineStream, line_stream

from seqlens_client import Client

NDJSON = "/v1/models/lstm-onnx/process"


def converse(address: str, body: bytes, *lines: str, query: str = "") -> list[dict]:
    """The lines that answer a whole body."""
    answer = ask(address, post(NDJSON + query, body, CONTENT_TYPE, *lines))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_each_line_is_answered_while_the_request_goes_on(
    server: RunningServer, target: str
) -> None:
    with Client(target) as client:
        expected = client.infer("lstm-onnx", [[5, 3, 9]])[0].output.tolist()
    with line_stream(server.rest, "lstm-onnx") as stream:
        stream.begin()
        assert stream.status == 200, "before anything is sent"
        for number in range(1, 4):
            stream.send([5, 3, 9])
            line = stream.line()
            assert (line["id"], line["version"], line["length"]) == (number, "1", 3)
            assert line["outputs"]["logits"] == pytest.approx(expected, abs=1e-4)
        stream.end()
        assert stream.rest() == []


@pytest.mark.parametrize("media_type", ["ndjson", "jsonl", "jsonlines; charset=utf-8"])
def test_all_names_of_the_format_are_known(server: RunningServer, media_type: str) -> None:
    body = post(NDJSON, b"[5]\n[6]", f"content-type: application/{media_type}")
    assert len(ask(server.rest, body).body.splitlines()) == 2


def test_bad_lines_cost_themselves_alone(server: RunningServer) -> None:
    lines = [b'{"id": "a", "sequence": [5]}', b"no JSON", b"", b"[99999]", b'"the kitten"\r',
             b'{"id": {"x": [1]}, "sequence": {"tokens": [5]}}', b'{"tokens": [5]}', b'{"id": 1}',
             b"[NaN]", b'{"id": "\xff", "sequence": [5]}', b"[1, 2"]  # fmt: skip
    answers = converse(server.rest, b"\n".join(lines), query="?keep_order=true")
    assert [one["id"] for one in answers] == ["a", 2, 4, 5, {"x": [1]}, 7, 8, 9, 10, 11]
    wrong = {one["id"]: one["error"] for one in answers if "error" in one and one["id"] != "a"}
    assert sorted(wrong) == [2, 4, 8, 9, 10, 11]
    assert {error["code"] for error in wrong.values()} == {"INVALID_ARGUMENT"}
    assert wrong[2]["message"].startswith("line 2: ")
    assert wrong[4]["field"] == "inputs.tokens[0]"
    assert wrong[8]["field"] == "inputs.id"


def test_order_is_kept_where_it_is_asked_for(server: RunningServer) -> None:
    lengths = [300, 1, 200, 2, 100, 3] * 10
    body = b"".join(json.dumps([5] * length).encode() + b"\n" for length in lengths)
    kept = converse(server.rest, body, query="?keep_order=1&window=1000")
    assert [one["length"] for one in kept] == lengths
    free = converse(server.rest, body, query="?window=1000")
    assert sorted(one["id"] for one in free) == [one["id"] for one in kept]
    assert [one["id"] for one in free] != [one["id"] for one in kept]


def test_options_are_taken_from_the_query(server: RunningServer) -> None:
    query = "?version=1&outputs=logits&priority=1&window=1&timeout_seconds=1e-9"
    (line,) = converse(server.rest, b"[5]\n", query=query)
    assert line["error"]["code"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("?keep_oder=1", 400, "query.keep_oder"),
        ("?window=x", 400, "query.window"),
        ("?window=-1", 400, "query.window"),
        ("?timeout_seconds=0", 400, "query.timeout_seconds"),
        ("?outputs=logit", 400, "did you mean 'logits'"),
        ("?version=7", 404, "7"),
    ],
)
def test_wrong_options_fail_the_request(
    server: RunningServer, query: str, status: int, named: str
) -> None:
    answer = ask(server.rest, post(NDJSON + query, b"[5]\n", CONTENT_TYPE))
    assert answer.status == status
    assert named in answer.error


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_lines_are_answered_as_they_come(server: RunningServer, encoding: str) -> None:
    bits = 31 if encoding == "gzip" else 15
    compressor = zlib.compressobj(wbits=bits)
    with line_stream(server.rest, "lstm-onnx", f"content-encoding: {encoding}") as stream:
        for number in range(1, 4):
            data = compressor.compress(b"[5]\n") + compressor.flush(zlib.Z_SYNC_FLUSH)
            stream.send_bytes(data)
            assert stream.line()["id"] == number
        stream.send_bytes(compressor.flush())
        stream.end()
        assert stream.rest() == []


def test_gzip_in_several_members_is_one_body(server: RunningServer) -> None:
    body = b"".join(gzip.compress(b"[5]\n" * 300) for _ in range(4))
    assert len(converse(server.rest, body, "content-encoding: gzip")) == 1200


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(b"[5]\n" * 99, mtime=0)[:-9]])
def test_damaged_gzip_ends_the_stream_with_an_error(server: RunningServer, body: bytes) -> None:
    *_, last = converse(server.rest, body, "content-encoding: gzip")
    assert "id" not in last
    assert "gzip" in last["error"]["message"]


@pytest.mark.parametrize("lines", [("br", "chunked"), ("gzip", "gzip, chunked")])
def test_an_unknown_encoding_is_refused(server: RunningServer, lines: tuple[str, str]) -> None:
    content, transfer = f"content-encoding: {lines[0]}", f"transfer-encoding: {lines[1]}"
    begun = head("POST", NDJSON, CONTENT_TYPE, content, transfer)
    answer = ask(server.rest, begun + "0\r\n\r\n")
    assert answer.status == 415


def test_empty_lines_made_of_little_hold_nobody_up(server: RunningServer) -> None:
    bomb = gzip.compress(b"\n" * 50_000_000)
    with line_stream(server.rest, "lstm-onnx", "content-encoding: gzip") as stream:
        stream.send_bytes(bomb)
        stream.end()
        slowest = max(seconds(server.rest) for _ in range(20))
        assert stream.rest() == []
    assert slowest < 0.5


def seconds(address: str) -> float:
    start = time.perf_counter()
    assert ask(address, "GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").status == 200
    return time.perf_counter() - start


def test_a_client_that_does_not_read_is_not_read_from(server: RunningServer) -> None:
    """Neither answers nor lines pile up in the server, and others are answered meanwhile."""
    line = json.dumps({"id": "x" * 100_000, "sequence": [5]}).encode()
    with line_stream(server.rest, "rnn-onnx", query="?window=4") as stream:
        stream.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            stream.send(*[line] * 1_000)
        assert seconds(server.rest) < 1


def test_a_client_that_hangs_up_takes_its_waiting_work_with_it(server: RunningServer) -> None:
    before = cancelled(server)
    with line_stream(server.rest, "rnn-torchscript", query="?window=4000") as stream:
        # Some ten seconds of work on one lane.
        stream.send(*[[2] * 2000] * 400)
        assert stream.line()["length"] == 2000
    left = time.monotonic()
    while cancelled(server) - before < 200:
        assert time.monotonic() - left < 3
        time.sleep(0.1)


def cancelled(server: RunningServer) -> float:
    """Sequences of streams over REST whose client has left."""
    connection = HTTPConnection(server.metrics)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    labels = ('protocol="rest"', 'method="stream"', 'code="CANCELLED"')
    lines = (line for line in text.splitlines() if line.startswith("seqlens_requests_total"))
    return sum(float(line.split()[-1]) for line in lines if all(one in line for one in labels))


def test_a_stream_waits_for_room_where_a_batch_is_refused(
    repository: Path, start_server: StartServer
) -> None:
    """The waiting room holds ten sequences; the stream sends four hundred as fast as it can.

    Then the server shuts down while a stream is open.
    """
    options = ("--scheduler.max-waiting-tokens", "1000", "--limits.max-message-bytes", "2000000")
    running = start_server(repository / "rnn-onnx", *options)
    with line_stream(running.rest, "rnn-onnx", query="?window=1000") as stream:
        stream.send(*[[2] * 100] * 400)
        stream.end()
        answers = stream.rest()
    assert len(answers) == 400
    assert not any("error" in one for one in answers)
    check_a_line_without_end(running)
    check_the_end(running)


def check_a_line_without_end(running: RunningServer) -> None:
    """What came before it is answered, and nothing is held of what comes after it."""
    with line_stream(running.rest, "rnn-onnx") as stream:
        sender = threading.Thread(target=send_without_end, args=(stream,))
        sender.start()
        first, last = stream.rest()
        sender.join()
    assert first["length"] == 1
    assert "id" not in last
    assert last["error"]["field"] == "line 2"


def send_without_end(stream: LineStream) -> None:
    stream.send([5])
    try:
        for _ in range(400):
            stream.send_bytes(b"[" * 10_000)
    except OSError:
        return  # the server has had enough


def check_the_end(running: RunningServer) -> None:
    with line_stream(running.rest, "rnn-onnx") as stream:
        stream.send([5])
        assert stream.line()["id"] == 1
        running.process.send_signal(signal.SIGTERM)
        (last,) = stream.rest()
        assert last["error"]["code"] == "UNAVAILABLE"
        assert "shutting down" in last["error"]["message"]
