"""What a model may be asked for, and what a run of it takes, found out at load."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqlens.backends.base import Engine
from seqlens.backends.padding import pad
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.repository.probes import Prober
from seqlens.repository.verify import VerificationFailed
from seqlens.scheduling.cost import CostModel, Measurement
from seqlens.sequences import Array

_LENGTHS = (8, 32, 128, 512, 2_048)
_BATCHES = (1, 4, 16)
_LONGEST_RUN_SECONDS = 0.3  # cells predicted to take longer are left to the cost model
_QUICK_SECONDS = 0.02  # runs below it are timed four times, longer ones twice


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """The longest sequence that is taken, and what set it."""

    length: int
    source: str


def length_limit(anatomy: ModelAnatomy, *, stated: int | None, longest: int) -> LengthLimit:
    """The lowest of the limits of the model, of ``model.yaml`` and of the settings."""
    limits = [LengthLimit(longest, "the setting max_sequence_length")]
    if anatomy.max_length is not None and stated is None:
        limits.append(LengthLimit(anatomy.max_length, _table(anatomy.max_length)))
    if anatomy.fixed_length is not None:
        limits.append(LengthLimit(anatomy.fixed_length, "the length frozen in the model"))
    if stated is not None:
        limits.append(LengthLimit(stated, "max_length in model.yaml"))
    return min(limits, key=lambda limit: limit.length)


def _table(size: int) -> str:
    return f"the model's position table of {size}"


def measure(
    engine: Engine,
    anatomy: ModelAnatomy,
    *,
    longest: int,
    most_rows: int,
    shortest: int = 1,
    seconds: float = 0.7,
) -> tuple[Measurement, ...]:
    """Time a grid of lengths and batch sizes; this warms the model up as well.

    Small cells come first; those that would take too long, or that the model refuses, are left
    out. ``seconds`` bounds the whole softly. Raises ``VerificationFailed`` if no cell runs.
    """
    until = time.perf_counter() + seconds
    found: list[Measurement] = []
    reason = ""
    for length, batch in _grid(anatomy, shortest, longest, most_rows):
        if found and (time.perf_counter() > until or _too_long(found, length, batch)):
            continue
        try:
            found.append(Measurement(length, batch, _timed(engine, anatomy, length, batch)))
        except (SeqLensError, ValueError) as error:
            reason = str(error)
    if not found:
        raise VerificationFailed(f"the model does not run: {reason}")
    return tuple(found)


def _grid(
    anatomy: ModelAnatomy, shortest: int, longest: int, most_rows: int
) -> Sequence[tuple[int, int]]:
    """Cells by their number of positions."""
    if not anatomy.has_time:
        lengths = [1]
    elif anatomy.fixed_length is not None:
        lengths = [anatomy.fixed_length]
    else:
        usual = [length for length in _LENGTHS if shortest <= length <= longest]
        lengths = usual or [min(longest, max(shortest, _LENGTHS[0]))]
    batches = [batch for batch in _BATCHES if batch <= most_rows]
    cells = [(length, batch) for length in lengths for batch in batches]
    return sorted(cells, key=lambda cell: (cell[0] * cell[1], cell[1]))


def _too_long(found: Sequence[Measurement], length: int, batch: int) -> bool:
    return CostModel(tuple(found)).seconds(length, batch) > _LONGEST_RUN_SECONDS


def _timed(engine: Engine, anatomy: ModelAnatomy, length: int, batch: int) -> float:
    prober = Prober(anatomy)
    inputs = pad(anatomy, [prober.sequence(length, number) for number in range(batch)])
    first = _run_seconds(engine, inputs)
    # The first run of a shape also allocates; a long one hides that and is costly to repeat.
    repeats = 3 if first < _QUICK_SECONDS else 1
    # The least, because whatever else the machine does can only add: models load side by side.
    return min(first, *(_run_seconds(engine, inputs) for _ in range(repeats)))


def _run_seconds(engine: Engine, inputs: Mapping[str, Array]) -> float:
    started = time.perf_counter()
    engine.run(inputs)
    return max(time.perf_counter() - started, 1e-9)
