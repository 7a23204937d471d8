"""Answers of a running server, as a table."""

import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens_client import Client, Result, SeqLensError


def show_answers(target: str, model: str, texts: Sequence[str]) -> int:
    """Print one row for each text; returns 1 if any has an error."""
    if not texts:
        print("seqlens: no texts to ask about", file=sys.stderr)
        return 1
    try:
        with Client(target) as client:
            labels = client.describe(model).labels
            outcomes = client.infer(model, list(texts), return_errors=True)
    except SeqLensError as error:
        print(f"seqlens: {error}", file=sys.stderr)
        return 1
    table = Table("text", "length", "answer", "queue ms", "compute ms", title=Text(model))
    for text, outcome in zip(texts, outcomes, strict=True):
        # Brackets in a text, a label or an error are no markup of ours.
        table.add_row(*map(Text, (text, *_cells(outcome, labels))))
    Console().print(table)
    return int(any(isinstance(outcome, SeqLensError) for outcome in outcomes))


def _cells(outcome: Result | SeqLensError, labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(outcome, SeqLensError):
        return "", f"error: {outcome}", "", ""
    return (
        str(outcome.length),
        "; ".join(_answer(array, labels) for array in outcome.outputs.values()),
        f"{outcome.queue_seconds * 1e3:.2f}",
        f"{outcome.compute_seconds * 1e3:.2f}",
    )


def _answer(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], labels: Sequence[str]) -> str:
    """The best class with its probability; the shape of anything that is not class scores."""
    if array.shape != (len(labels),) or array.dtype.kind != "f":
        return f"{array.dtype} {list(array.shape)}"
    scores = np.exp(array - array.max())
    best = int(scores.argmax())
    return f"{labels[best]} ({scores[best] / scores.sum():.1%})"
