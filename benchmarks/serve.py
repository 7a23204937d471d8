"""The same sequences through gRPC: 32 callers in a closed loop, latency by length range.

Each model's rate is put beside "one by one" of ``offline.py``, measured before and after it in
the same run while the server idles. The client shares the cores with the server.
"""

import argparse
import asyncio
import itertools
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import uvloop
from offline import one_by_one, rate, session
from serving import served
from workload import LENGTH_RANGES, Workload, arguments, export_all, mixed

from seqlens_client import AsyncClient


@dataclass(frozen=True)
class Call:
    length: int
    seconds: float


async def closed_loop(address: str, model: str, workload: Workload, callers: int) -> list[Call]:
    """Every caller sends its next sequence as soon as the last is answered."""
    pending = itertools.chain(workload.sequences)
    calls: list[Call] = []
    async with AsyncClient(address) as client:

        async def caller() -> None:
            for sequence in pending:
                started = time.perf_counter()
                await client.infer(model, sequence)
                calls.append(Call(len(sequence), time.perf_counter() - started))

        await asyncio.gather(*(caller() for _ in range(callers)))
    return calls


async def as_list(address: str, model: str, workload: Workload) -> None:
    """All of them handed to the client at once: it sends up to 64 in a message."""
    async with AsyncClient(address, timeout=600) as client:
        await client.infer(model, list(workload.sequences))


def percentiles(calls: list[Call]) -> str:
    parts = []
    for low, high in LENGTH_RANGES:
        seconds = [call.seconds for call in calls if low <= call.length <= high]
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3 if seconds else (np.nan, np.nan)
        parts.append(f"{p50:8.1f} / {p99:7.1f}")
    return " ".join(parts)


@dataclass(frozen=True)
class Round:
    """Sequences a second, all measured within seconds of each other."""

    alone: float
    unary: float
    listed: float


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many are shown")
    options = parser.parse_args()
    export_all(options.repository, options.models)
    workload = mixed(options.count)
    titles = " ".join(f"{f'{low}-{high} p50/p99 ms':>18}" for low, high in LENGTH_RANGES)
    print(f"{options.count} sequences, {options.callers} callers, {options.lanes} lanes")
    rates = f"{'one by one':>10} {'gRPC':>8} {'ratio':>6} {'list':>8} {'ratio':>6}"
    print(f"{'model':12} {rates} {titles}")
    with served(options.repository, "--lanes", str(options.lanes)) as address:
        for name in options.models:
            print(measure(name, address, workload, options), flush=True)


def measure(name: str, address: str, workload: Workload, options: argparse.Namespace) -> str:
    model = session(options.repository / name / "1" / "model.onnx")
    warm = Workload(workload.sequences[:32])
    rate(model, one_by_one(warm), options.lanes)
    uvloop.run(closed_loop(address, name, warm, options.callers))

    rounds, calls = [], []
    alone = rate(model, one_by_one(workload), options.lanes)
    for _ in range(options.rounds):
        started = time.perf_counter()
        calls += uvloop.run(closed_loop(address, name, workload, options.callers))
        called = time.perf_counter()
        uvloop.run(as_list(address, name, workload))
        ended = time.perf_counter()
        # The yardstick is taken on both sides: the machine's own speed drifts.
        after = rate(model, one_by_one(workload), options.lanes)
        counted = len(workload.sequences)
        rounds.append(
            Round((alone + after) / 2, counted / (called - started), counted / (ended - called))
        )
        alone = after
    return f"{name:12} {rates_of(rounds)} {percentiles(calls)}"


def rates_of(rounds: list[Round]) -> str:
    alone = median(one.alone for one in rounds)
    unary = median(one.unary for one in rounds)
    listed = median(one.listed for one in rounds)
    unary_ratio = median(one.unary / one.alone for one in rounds)
    listed_ratio = median(one.listed / one.alone for one in rounds)
    return f"{alone:10.1f} {unary:8.1f} {unary_ratio:6.2f} {listed:8.1f} {listed_ratio:6.2f}"


if __name__ == "__main__":
    main()
