"""An answer as a flat row of values that JSON has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqlens_client._answers import Outcome
from seqlens_client._errors import SeqLensError
from seqlens_wire.datatypes import Array

OUTPUT, SCORE, LENGTH, ERROR = "output", "score", "length", "error"


def to_row(outcome: Outcome, labels: Sequence[str] = (), column: str = OUTPUT) -> dict[str, Any]:
    """One answer, or the error in its place, as values that JSON has.

    ``output`` (or ``column``) holds the only output as nested lists, or several by name; a number
    that is not finite becomes None. With ``labels`` an output whose last axis has one entry for
    each label becomes its best label, one for each position if it has more axes, and ``score``
    holds its probability. ``length`` is the sequence's; ``error`` is None, or ``CODE: message``.
    """
    score = {SCORE: None} if labels else {}
    if isinstance(outcome, SeqLensError):
        error = f"{outcome.code}: {outcome.message}"
        return {column: None, **score, LENGTH: None, ERROR: error}
    pairs = {name: _value(array, labels) for name, array in outcome.outputs.items()}
    if labels:
        score = {SCORE: _alone({name: score for name, (_, score) in pairs.items()})}
    output = _alone({name: value for name, (value, _) in pairs.items()})
    return {column: output, **score, LENGTH: outcome.length, ERROR: None}


def answer_columns(column: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The keys of ``to_row``, in order."""
    return (column, SCORE, LENGTH, ERROR) if labels else (column, LENGTH, ERROR)


def _alone(values: dict[str, Any]) -> Any:
    """The only value without its name, or all with theirs."""
    return next(iter(values.values())) if len(values) == 1 else values


def _value(array: Array, labels: Sequence[str]) -> tuple[Any, Any]:
    """An output as JSON has it, and its score if there is one."""
    if labels and array.ndim and array.shape[-1] == len(labels) and array.dtype.kind in "fiu":
        probabilities = as_probabilities(array)
        best = probabilities.argmax(-1)
        names = np.array(labels, object)[best]
        return (names.tolist() if best.ndim else names), plain(probabilities.max(-1))
    return plain(array), None


def as_probabilities(scores: Array) -> Array:
    """Scores of classes along the last axis as numbers that add up to one."""
    scores = scores.astype(np.float64)
    sums = scores.sum(-1)
    if (scores >= 0).all() and np.allclose(sums, 1, atol=1e-3):  # the model did it itself
        return scores
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def plain(array: Array) -> Any:
    """Nested lists, numbers, texts and None."""
    if array.dtype.kind == "O":
        return np.vectorize(_text, otypes=[object])(array).tolist() if array.size else []
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        numbers = array.astype(object)
        numbers[~finite] = None
        return numbers.tolist()
    return array.tolist()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")
