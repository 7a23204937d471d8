"""Answers as tables for pandas, which is imported only here and only when asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from seqlens_client._errors import SeqLensError
from seqlens_client._results import Result
from seqlens_wire.datatypes import Array

if TYPE_CHECKING:
    import pandas


def to_frame(
    results: Iterable[Result | SeqLensError], *, per_step: Collection[str] | None = None
) -> pandas.DataFrame:
    """Results as one table.

    A result with outputs for each step has one row for each position, any other has one row;
    beside each row stand ``sequence`` (the result's place in the list), ``position`` (0 if it is
    the only one), ``length``, ``queue_seconds`` and ``compute_seconds``. A number is a column of
    the output's name, a vector is as many columns ``name[0]``, ``name[1]``, ..., anything larger
    is a column of arrays. What belongs to the whole sequence is repeated. An error has one row,
    and its text in the column ``error``, which is there if there are any errors.

    ``per_step`` names the outputs that have a time axis. Without it those are taken whose first
    axis has as many entries as the sequence in every result: name them where another axis could
    happen to be as long. Raises ``ImportError`` without pandas.
    """
    try:
        import pandas
    except ImportError as missing:
        raise ImportError("tables need pandas: pip install 'seqlens[data]'") from missing
    results = list(results)
    if per_step is None:
        per_step = _per_step([result for result in results if isinstance(result, Result)])
    return pandas.DataFrame(
        [row for index, result in enumerate(results) for row in _rows(index, result, per_step)]
    )


def _per_step(results: list[Result]) -> set[str]:
    """Outputs with an entry for each position, in all results that have them."""
    names = {name for result in results for name in result.outputs}
    for result in results:
        for name, array in result.outputs.items():
            if array.ndim == 0 or len(array) != result.length:
                names.discard(name)
    return names


def _rows(
    index: int, result: Result | SeqLensError, per_step: Collection[str]
) -> Iterator[dict[str, Any]]:
    if isinstance(result, SeqLensError):
        yield {"sequence": index, "position": 0, "error": result.message}
        return
    steps = [name for name in result.outputs if name in per_step]
    for position in range(len(result.outputs[steps[0]]) if steps else 1):
        row = {"sequence": index, "position": position, "length": result.length}
        for name, array in result.outputs.items():
            row |= _cells(name, array[position] if name in per_step else array)
        yield row | {
            "queue_seconds": result.queue_seconds,
            "compute_seconds": result.compute_seconds,
        }


def _cells(name: str, value: Array) -> dict[str, Any]:
    if value.ndim == 0:
        return {name: value[()]}
    if value.ndim == 1:
        return {f"{name}[{index}]": number for index, number in enumerate(value)}
    return {name: value}
