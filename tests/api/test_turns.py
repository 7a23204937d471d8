import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from tests.conftest import RunningServer

from seqlens.api.turns import MANY_SEQUENCES, Turns


async def test_callers_with_much_to_do_get_a_round_of_the_loop_each() -> None:
    turns, order = Turns(), []

    async def work(name: str) -> None:
        await turns.take(MANY_SEQUENCES + 1)
        order.append(name)

    async def probe() -> None:
        for _ in range(6):
            order.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(work("first"), work("second"), work("third"), probe())
    assert [name for name in order if name != "other"] == ["first", "second", "third"]
    assert all(
        "other" in order[order.index(one) : order.index(next_one)]
        for one, next_one in (("first", "second"), ("second", "third"))
    )


async def test_callers_with_little_to_do_wait_for_nobody() -> None:
    turns = Turns()
    many = asyncio.create_task(turns.take(MANY_SEQUENCES + 1))
    few = turns.take(MANY_SEQUENCES)
    try:
        few.send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("it waited")
    await many


async def test_who_leaves_while_waiting_holds_up_nobody() -> None:
    turns = Turns()
    tasks = [asyncio.create_task(turns.take(MANY_SEQUENCES + 1)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.wait_for(tasks[2], 1)


def ask(address: str, method: str, path: str, body: bytes = b"") -> int:
    connection = HTTPConnection(address, timeout=60)
    connection.request(method, path, body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_a_burst_of_large_requests_does_not_hold_up_a_health_check(server: RunningServer) -> None:
    """Without turns it has to wait for nearly all of them."""
    rows = 4096
    tensor = {"name": "tokens", "datatype": "INT64", "shape": [rows, 1], "data": [5] * rows}
    body = json.dumps({"inputs": [tensor]}).encode()
    waits = []
    with ThreadPoolExecutor(32) as threads:
        began = time.monotonic()
        burst = [
            threads.submit(ask, server.rest, "POST", "/v2/models/rnn-onnx/infer", body)
            for _ in range(32)
        ]
        while not all(one.done() for one in burst):
            asked = time.monotonic()
            assert ask(server.rest, "GET", "/v2/health/live") == 200
            waits.append(time.monotonic() - asked)
        took = time.monotonic() - began
    assert {one.result() for one in burst} <= {200, 429}
    assert max(waits) < took / 3
