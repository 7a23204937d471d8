"""(d) What runs in parallel and what cannot: latency by length, and sequential depth."""

from typing import Final

import numpy as np

from insight_report import charts
from insight_report.section import Figures, Picture, Section
from insight_report.words import times
from seqlens_client import Client

ARCHITECTURES: Final = ("rnn", "lstm", "transformer")
LENGTHS: Final = (16, 32, 64, 128, 256, 512, 1024)
REPEATS: Final = 7


def measure(client: Client) -> Figures:
    figures: Figures = {"lengths": list(LENGTHS), "models": {}}
    rng = np.random.default_rng(19)
    for architecture in ARCHITECTURES:
        model = f"{architecture}-onnx"
        seconds = []
        for length in LENGTHS:
            tokens = rng.integers(2, 157, length)
            runs = [client.infer(model, tokens).compute_seconds for _ in range(REPEATS)]
            seconds.append(float(np.median(runs[1:])))
        depth = client.describe(model).sequential_depth
        figures["models"][architecture] = {"compute_seconds": seconds, "sequential_depth": depth}
    return figures


def sentences(figures: Figures) -> list[str]:
    lengths = figures["lengths"]
    told = []
    for name, one in figures["models"].items():
        seconds = one["compute_seconds"]
        told.append(
            f"{name}: {seconds[0] * 1e3:.2f} ms for {lengths[0]} words, {seconds[-1] * 1e3:.1f} ms "
            f"for {lengths[-1]}: {times(seconds[-1] / seconds[0])} the time for "
            f"{times(lengths[-1] / lengths[0])} the words. Steps that must follow each other: "
            f"{one['sequential_depth']}."
        )
    last = {name: one["compute_seconds"][-1] for name, one in figures["models"].items()}
    first, slowest = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    told.append(
        f"At {lengths[-1]} words, on one core, {first} is the quickest and {slowest} takes "
        f"{times(last[slowest] / last[first])} as long. One core cannot show what many could do "
        "at once: a Transformer's positions do not wait for each other, but each looks at all."
    )
    return told


def pictures(figures: Figures) -> list[Picture]:
    x = figures["lengths"]
    series = {
        name: (x, [s * 1e3 for s in one["compute_seconds"]])
        for name, one in figures["models"].items()
    }
    drawn = charts.lines({"one core": series}, across="words", up="ms", log_up=True)
    return [Picture(drawn, "Computing time of one text by its length; the median of six runs.")]


SECTION = Section(
    "latency",
    "What runs in parallel?",
    "How does the time of one answer grow with its length?",
    measure,
    sentences,
    pictures,
)
