"""What the SDK adds to a call: ``Client.infer`` beside the bare stub with the same message.

One call at a time against a real server with a model that costs nothing, the two in turns within
one run. Shown are medians over the rounds: time of a call, and CPU time of the client's process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import grpc
import grpc.aio
import uvloop
from wire import CLIENT_CORE, LENGTH, running, write_model
from wire_clients import MODEL, batch_request

from seqlens_client import AsyncClient, Client
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub

TOKENS = list(range(1, LENGTH + 1))
Times = tuple[float, float]  # microseconds a call: elapsed, CPU of this process


def timed(calls: int, call: Callable[[], object]) -> Times:
    cpu, started = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - started
    return elapsed / calls * 1e6, (time.process_time() - cpu) / calls * 1e6


async def timed_async(calls: int, call: Callable[[], object]) -> Times:
    cpu, started = time.process_time(), time.perf_counter()
    for _ in range(calls):
        await call()  # type: ignore[misc]
    elapsed = time.perf_counter() - started
    return elapsed / calls * 1e6, (time.process_time() - cpu) / calls * 1e6


def sync_rounds(address: str, calls: int, rounds: int) -> list[tuple[Times, Times]]:
    request = batch_request([TOKENS])
    with grpc.insecure_channel(address) as channel, Client(address) as client:
        stub = SequenceServiceStub(channel)

        def bare() -> object:
            return stub.ProcessBatch(request)

        def ours() -> object:
            return client.infer(MODEL, TOKENS)

        timed(calls // 4, bare)
        timed(calls // 4, ours)
        return [(timed(calls, bare), timed(calls, ours)) for _ in range(rounds)]


async def async_rounds(address: str, calls: int, rounds: int) -> list[tuple[Times, Times]]:
    request = batch_request([TOKENS])
    async with grpc.aio.insecure_channel(address) as channel, AsyncClient(address) as client:
        stub = SequenceServiceStub(channel)

        def bare() -> object:
            return stub.ProcessBatch(request)

        def ours() -> object:
            return client.infer(MODEL, TOKENS)

        await timed_async(calls // 4, bare)
        await timed_async(calls // 4, ours)
        return [
            (await timed_async(calls, bare), await timed_async(calls, ours)) for _ in range(rounds)
        ]


def shown(name: str, rounds: list[tuple[Times, Times]]) -> str:
    cells = [f"{name:12}"]
    for part in (0, 1):
        bare, ours = (median(pair[side][part] for pair in rounds) for side in (0, 1))
        more = median(pair[1][part] - pair[0][part] for pair in rounds)
        cells += [f"{bare:10.0f}", f"{ours:8.0f}", f"{more:6.0f}"]
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{'us a call':12} {'bare':>10} {'SDK':>8} {'more':>6} "
          f"{'bare CPU':>10} {'SDK CPU':>8} {'more':>6}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        write_model(repository)
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--lanes", "1"]
        cache = ["--cache", str(Path(folder) / "cache")]
        serve = ["-m", "seqlens.cli", "serve", "--repository", str(repository), *cache, *ports]
        with running(*serve) as server:
            os.sched_setaffinity(0, {int(CLIENT_CORE)})
            print(shown("Client", sync_rounds(server.grpc, options.calls, options.rounds)))
            rounds = uvloop.run(async_rounds(server.grpc, options.calls, options.rounds))
            print(shown("AsyncClient", rounds))


if __name__ == "__main__":
    main()
