"""The REST server as a whole: many connections, its end, and clients that leave its queues."""

import json
import resource
import signal
import socket
import time
import urllib.request
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from tests.support.http_wire import ask, head, post, wire

from seqlens_wire.pb import sequences_pb2
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import pack

SEEN = head("GET", "/seen")
IDLE_CONNECTIONS = 3_000


def test_thousands_of_idle_connections_hold_nobody_up(start_probe: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE_CONNECTIONS:
        pytest.skip(f"this process may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with start_probe() as probe, ExitStack() as stack:
            before = probe.seen()["peak"]
            for number in range(IDLE_CONNECTIONS):
                connection = stack.enter_context(connect(probe.address))
                # Some have said nothing yet, some a part of a head, some are between requests.
                connection.sendall([b"", SEEN[:20].encode(), SEEN.encode()][number % 3])
            start = time.monotonic()
            peak = probe.seen()["peak"]
            assert time.monotonic() - start < 1
            assert peak - before < IDLE_CONNECTIONS * 20 / 1024 + 10, "more than 20 KiB for each"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def test_requests_in_progress_are_answered_at_the_end_and_new_connections_refused(
    start_probe: Any,
) -> None:
    with start_probe() as probe, wire(probe.address) as busy, wire(probe.address) as idle:
        assert idle.send(SEEN).answer().status == 200
        busy.send(post("/wait/0.6", b""))
        wait_for_one(probe)
        probe.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            connect(probe.address)
        # One that was on its way already: answered, and the last of its connection.
        late = idle.send(SEEN).answer()
        assert (late.status, late.headers["connection"]) == (200, "close")
        assert idle.ended()
        answer = busy.answer()
        assert (answer.json, answer.headers["connection"]) == ("waited", "close")
        assert busy.ended()
        assert probe.process.wait(2) == 0


def test_what_takes_longer_than_the_end_may_last_is_told_so(start_probe: Any) -> None:
    with start_probe() as probe, wire(probe.address) as busy, wire(probe.address) as half:
        busy.send(post("/wait/60", b""))
        half.send(SEEN[:20])
        wait_for_one(probe)
        probe.process.send_signal(signal.SIGTERM)
        answer = busy.answer()
        assert answer.status == 503
        assert "shutting down" in answer.error
        assert probe.process.wait(3) == 0


def test_a_client_that_reads_nothing_does_not_hold_the_end_up(start_probe: Any) -> None:
    with start_probe() as probe, wire(probe.address) as connection:
        connection.send(head("GET", "/bytes/50000000"))
        time.sleep(0.3)
        probe.process.send_signal(signal.SIGTERM)
        assert probe.process.wait(4) == 0


def counted(server: Any, code: str) -> float:
    """Requests to ``rnn-torchscript`` over REST that ended with a code."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
        lines = response.read().decode().splitlines()
    labels = (f'code="{code}"', 'model="rnn-torchscript"', 'protocol="rest"')
    found = (line for line in lines if line.startswith("seqlens_requests_total{"))
    return sum(float(line.split()[-1]) for line in found if all(one in line for one in labels))


def test_queued_work_of_a_client_that_hangs_up_is_withdrawn_and_no_success(server: Any) -> None:
    # Longer than those of the others: a shorter one would go before them.
    tensor = {"name": "tokens", "datatype": "INT64", "shape": [1, 2_100], "data": [2] * 2_100}
    request = post("/v2/models/rnn-torchscript/infer", json.dumps({"inputs": [tensor]}).encode())
    assert ask(server.rest, request).status == 200
    cancelled, answered = counted(server, "CANCELLED"), counted(server, "OK")
    busy = sequences_pb2.ProcessBatchRequest(model_name="rnn-torchscript")
    busy.sequences.inputs.append(pack("tokens", "INT64", [np.full(2_000, 2)] * 30))
    with grpc.insecure_channel(server.grpc) as channel:
        others = SequenceServiceStub(channel).ProcessBatch.future(busy)
        time.sleep(0.2)
        for _ in range(5):
            with wire(server.rest) as connection:
                connection.send(request)
                time.sleep(0.02)
        while counted(server, "CANCELLED") < cancelled + 5:
            assert not others.done(), "they were answered, or left, only in their turn"
        assert not any(result.HasField("error") for result in others.result().answers.results)
    assert ask(server.rest, request).status == 200
    assert counted(server, "OK") == answered + 1


def wait_for_one(probe: Any) -> None:
    end = time.monotonic() + 5
    while not probe.seen()["begun"]:
        assert time.monotonic() < end
        time.sleep(0.01)
