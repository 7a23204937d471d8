"""Watch three architectures, each in two formats, answer the same sentences from one server.

Starts `seqlens serve` on free ports, asks all six example models about the kitten sentence, over
gRPC and REST, and about a few hundred generated sentences of 6 to 250 words, compares every answer
with eager PyTorch, and prints what was measured. Exits 0 only if every answer agrees.

    python examples/demo.py [--repository build/repository] [--sentences 300]
"""

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from serving import served

from seqlens_client import Client, Result
from seqlens_zoo.antecedent import KITTEN_SENTENCE, LABELS, AntecedentText, encode, generate
from seqlens_zoo.weights import reference

ARCHITECTURES = ("rnn", "lstm", "transformer")
FORMATS = ("onnx", "torchscript")
DISTANCES = (4, 8, 16, 32, 64, 128)
LENGTH_RANGES = ((6, 32), (33, 128), (129, 250))
# Largest difference of a logit to eager PyTorch. Logits reach 14; over 250 steps a recurrent net
# amplifies the rounding of float32, which every kernel does in another order.
TOLERANCE = 5e-4
LOG = Path("build/demo-server.log")
WINDOW = 16  # unanswered sentences on a stream

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """What one model answered."""

    promised: float  # largest difference between batched and alone, as the server states it
    kitten: Result
    kitten_over_rest: Logits
    batched: list[Result]  # through one stream, many at a time
    alone: list[Result]  # one request after the other

    @property
    def logits(self) -> Logits:
        return np.stack([result.output for result in self.batched])


def sentences(count: int) -> list[AntecedentText]:
    """As many for every distance, 6 to 250 words long."""
    rng = np.random.default_rng(7)
    made = []
    for index in range(count):
        distance = DISTANCES[index % len(DISTANCES)]
        words = int(rng.integers(max(6, distance + 2), 251))
        made.append(generate(rng, distance=distance, words=words))
    rng.shuffle(made)  # type: ignore[arg-type]
    return made


def ask_over_rest(address: str, model: str, text: str) -> Logits:
    """The same question as `curl` asks it."""
    url = f"http://{address}/v1/models/{model}/process"
    body = json.dumps({"sequence": text}).encode()
    with urllib.request.urlopen(url, body) as answer:
        (result,) = json.load(answer)["results"]
    (logits,) = result["outputs"].values()
    return np.array(logits, np.float32)


def ask(client: Client, rest: str, model: str, texts: Sequence[str], progress: Progress) -> Run:
    """Everything that one model is asked, with a progress bar."""
    task = progress.add_task(model, total=2 * len(texts))
    batched = []
    for result in client.stream(model, texts, window=WINDOW):
        batched.append(result)
        progress.advance(task)
    alone = []
    for text in texts:
        alone.append(client.infer(model, text))
        progress.advance(task)
    promised = client.describe(model).proof.tolerance
    kitten = client.infer(model, KITTEN_SENTENCE)
    return Run(promised, kitten, ask_over_rest(rest, model, KITTEN_SENTENCE), batched, alone)


def probabilities(logits: Logits) -> Logits:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def accuracy(run: Run, asked: Sequence[AntecedentText], distance: int) -> str:
    named = [LABELS[index] for index in run.logits.argmax(axis=1)]
    right = [
        name == text.answer
        for name, text in zip(named, asked, strict=True)
        if text.distance == distance
    ]
    return f"{np.mean(right):.2f}"


def latency(run: Run, low: int, high: int) -> str:
    """p50 and p99 of the time in the server, in milliseconds."""
    seconds = [
        result.queue_seconds + result.compute_seconds
        for result in run.batched
        if low <= result.length <= high
    ]
    if not seconds:
        return "-"
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return f"{p50:.1f} / {p99:.1f}"


def difference(first: Sequence[Result], second: Logits) -> float:
    return float(np.abs(np.stack([result.output for result in first]) - second).max())


def padding_share(exposition: str, model: str) -> str:
    tokens = {
        sample.labels["kind"]: sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == "seqlens_tokens_total" and sample.labels["model"] == model
    }
    return f"{tokens['padding'] / sum(tokens.values()):.1%}"


def new_table(title: str, titles: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for column in titles:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def answers_table(runs: dict[str, Run], asked: Sequence[AntecedentText]) -> Table:
    table = new_table(
        "What is the last it? In the kitten sentence, and in others: share of right answers by"
        " the words between noun and pronoun",
        ("kitten sentence", *map(str, DISTANCES)),
    )
    for model, run in runs.items():
        chances = probabilities(run.kitten.output)
        answer = f"{LABELS[int(chances.argmax())]} {chances.max():.3f}"
        table.add_row(model, answer, *(accuracy(run, asked, distance) for distance in DISTANCES))
    return table


def service_table(runs: dict[str, Run], expected: dict[str, Logits], exposition: str) -> Table:
    ranges = [f"{low}-{high}" for low, high in LENGTH_RANGES]
    table = new_table(
        f"p50 / p99 ms in the server for sentences of so many words, {WINDOW} in flight; share of"
        " padding; largest difference of a logit to the answer alone, and to PyTorch",
        (*ranges, "padding", "alone", "PyTorch"),
    )
    for model, run in runs.items():
        alone = np.stack([result.output for result in run.alone])
        table.add_row(
            model,
            *(latency(run, low, high) for low, high in LENGTH_RANGES),
            padding_share(exposition, model),
            f"{difference(run.batched, alone):.1e}",
            f"{difference(run.batched, expected[model]):.1e}",
        )
    return table


def disagreements(runs: dict[str, Run], expected: dict[str, Logits]) -> list[str]:
    """Answers beyond what is promised: against the same sequence alone, and against PyTorch."""
    found = []
    for model, run in runs.items():
        batching = difference(run.batched, np.stack([result.output for result in run.alone]))
        if not batching <= run.promised:
            found.append(f"{model}: batched and alone differ by {batching:.1e}")
        if not np.array_equal(run.kitten.output, run.kitten_over_rest):
            found.append(f"{model}: gRPC and REST differ")
        kitten = reference(model.split("-")[0], [encode(KITTEN_SENTENCE)])
        for what, results, logits in (
            ("batched", run.batched, expected[model]),
            ("alone", run.alone, expected[model]),
            ("kitten", [run.kitten], kitten),
        ):
            worst = difference(results, logits)
            if not worst <= TOLERANCE:
                found.append(f"{model}, {what}: differs from PyTorch by {worst:.1e}")
    return found


def metric_lines(exposition: str, *names: str) -> Iterator[str]:
    """The first lines of some families, as Prometheus sees them."""
    for name in names:
        lines = [line for line in exposition.splitlines() if line.startswith(name)]
        yield from [line for line in lines if not line.endswith(" 0.0")][:3]


def ask_all(repository: Path, texts: Sequence[str], console: Console) -> tuple[dict[str, Run], str]:
    """What all six models answer, and the metrics afterwards."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn())
    print("loading: six models are inspected, proved and measured ...", flush=True)
    with served(repository, LOG) as addresses, Client(addresses.grpc) as client:
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            runs = {
                f"{name}-{form}": ask(client, addresses.rest, f"{name}-{form}", texts, progress)
                for name in ARCHITECTURES
                for form in FORMATS
            }
        with urllib.request.urlopen(f"http://{addresses.metrics}/metrics") as answer:
            return runs, answer.read().decode()


def show(
    console: Console,
    asked: Sequence[AntecedentText],
    runs: dict[str, Run],
    expected: dict[str, Logits],
    exposition: str,
) -> None:
    console.print(answers_table(runs, asked))
    console.print("models/README.md says what this shows, and what it does not.\n")
    console.print(service_table(runs, expected, exposition))
    console.print("some of the live metrics:")
    for line in metric_lines(
        exposition,
        "seqlens_request_duration_seconds_count",
        "seqlens_tokens_total",
        "seqlens_batch_invariance_max_abs_error",
    ):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def save_picture(console: Console, path: Path) -> None:
    """What was printed, as an SVG that asks no other host for a font."""
    drawn = console.export_svg(title="make demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--picture", type=Path, help="write what is shown into this SVG file")
    options = parser.parse_args()
    console = Console(record=True)
    console.width = max(console.width, 112)  # also where the output goes into a file
    asked = sentences(options.sentences)
    texts = [text.text for text in asked]

    runs, exposition = ask_all(options.repository, texts, console)
    print("comparing with eager PyTorch, sentence by sentence ...", flush=True)
    logits = {name: reference(name, [encode(text) for text in texts]) for name in ARCHITECTURES}
    expected = {model: logits[model.split("-")[0]] for model in runs}
    show(console, asked, runs, expected, exposition)

    found = disagreements(runs, expected)
    if found:
        sys.exit("answers that disagree: " + "; ".join(found))
    answers = sum(len(run.batched) + len(run.alone) + 2 for run in runs.values())
    console.print(f"all {answers} answers agree with PyTorch within {TOLERANCE}", highlight=False)
    if options.picture:
        save_picture(console, options.picture)


if __name__ == "__main__":
    main()
