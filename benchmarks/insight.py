"""What looking inside costs: those who look, and those who do not.

First the example models, opened up, beside themselves: time of a run with the weights of all layers
and of one, in parts of the plain run, and peak memory of a process that does either. Then plain
requests to a server, alone and while another caller draws maps as fast as it can, or one a second;
both in turns within one run, p50 and p99 in parts of those alone.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

import numpy as np
from serving import served

from seqlens.backends.base import Engine, LoadOptions
from seqlens.backends.plugins import backend_for, find_all
from seqlens.backends.tapped import Look
from seqlens.graphs.trial import trial_inputs
from seqlens_client import Client

LENGTHS = (64, 256, 1024)
MODELS = ("transformer-onnx", "transformer-torchscript")
PLAIN_LENGTHS = (16, 64, 256)
MAP_LENGTH = 256
PACES = {"as fast as it can": 0.0, "one a second": 1.0}  # seconds between two maps
WINDOW_SECONDS = 2.0


def timed(run: Callable[[], object], rounds: int) -> float:
    """Milliseconds of a run, the median."""
    run()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds) * 1e3


def load(repository: Path, model: str) -> Engine:
    (path,) = (p for p in (repository / model / "1").iterdir() if p.suffix in (".onnx", ".pt"))
    return backend_for(path, None, find_all()).load(path, LoadOptions())


def compare(repository: Path, model: str, length: int, rounds: int) -> str:
    engine = load(repository, model)
    tapped = engine.tapped()
    assert tapped is not None
    inputs = trial_inputs(engine.anatomy, 1, length)
    sites = tuple(tap.site.name for tap in tapped.taps)
    looks = [Look(sites=sites), Look(sites=sites[:1])]
    plain = timed(lambda: engine.run(inputs), rounds)
    everything, one = (timed(lambda look=look: tapped.run(inputs, look), rounds) for look in looks)
    memory = [peak(repository, model, length, opened) for opened in (False, True)]
    return (
        f"| {model} | {length} | {plain:.2f} | {everything / plain:.2f} | {one / plain:.2f} "
        f"| {memory[0]:.0f} | {memory[1]:.0f} |"
    )


def peak(repository: Path, model: str, length: int, opened: bool) -> float:
    """Peak memory, in MiB, of a process that runs a model, plain or opened up as well."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (repository, model, length, opened))


def _peak(repository: Path, model: str, length: int, opened: bool) -> float:
    engine = load(repository, model)
    inputs = trial_inputs(engine.anatomy, 1, length)
    engine.run(inputs)
    if opened:
        tapped = engine.tapped()
        assert tapped is not None
        tapped.run(inputs, Look(sites=tuple(tap.site.name for tap in tapped.taps)))
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def draw(address: str, model: str, pace: float, on: Event, stop: Event) -> None:
    """Draw all maps of a sequence again and again while it is on."""
    tokens = np.random.default_rng(1).integers(2, 150, MAP_LENGTH)
    with Client(address) as client:
        while not stop.is_set():
            if on.wait(0.05):
                client.attention(model, tokens, timeout=60)
                time.sleep(pace)


def ask(client: Client, model: str, seconds: float) -> list[float]:
    """Latencies, in milliseconds, of one caller's plain requests."""
    rng = np.random.default_rng(2)
    sequences = [rng.integers(2, 150, length) for length in PLAIN_LENGTHS]
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        for tokens in sequences:
            started = time.perf_counter()
            client.infer(model, tokens)
            found.append((time.perf_counter() - started) * 1e3)
            time.sleep(0.005)  # a caller that is not the load
    return found


def beside(
    address: str, model: str, drawn: str, pace: float, rounds: int
) -> tuple[list[float], list[float]]:
    """Latencies alone, and while maps are drawn, in turns."""
    context = multiprocessing.get_context("spawn")
    on, stop = context.Event(), context.Event()
    other = context.Process(target=draw, args=(address, drawn, pace, on, stop))
    other.start()
    alone: list[float] = []
    together: list[float] = []
    with Client(address) as client:
        ask(client, model, WINDOW_SECONDS)
        for _ in range(rounds):
            alone += ask(client, model, WINDOW_SECONDS)
            on.set()
            time.sleep(0.3)
            together += ask(client, model, WINDOW_SECONDS)
            on.clear()
            time.sleep(0.5)
    stop.set()
    other.join()
    return alone, together


def main() -> None:
    parser = argparse.ArgumentParser(description="What looking inside costs.")
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    print(
        "| model | length | plain ms | all layers / plain | one layer / plain | MiB | opened MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in MODELS:
        for length in LENGTHS:
            print(compare(options.repository, model, length, 4 * options.rounds), flush=True)

    print(
        "\n| plain requests to | maps drawn | p50 alone | p50 beside / alone | p99 beside / alone |"
    )
    print("|---|---|---|---|---|")
    with served(options.repository) as address:
        for model in (*MODELS, "lstm-onnx"):
            drawn = MODELS[0] if model == "lstm-onnx" else model
            for name, pace in PACES.items():
                print(_row(address, model, drawn, name, pace, options.rounds), flush=True)


def _row(address: str, model: str, drawn: str, name: str, pace: float, rounds: int) -> str:
    alone, together = beside(address, model, drawn, pace, rounds)
    ratios = [np.quantile(together, q) / np.quantile(alone, q) for q in (0.5, 0.99)]
    return (
        f"| {model} | of {drawn}, {name} | {np.quantile(alone, 0.5):.2f} ms "
        f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
    )


if __name__ == "__main__":
    main()
