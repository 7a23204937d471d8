"""What a module does in a run: where its attention, its embedding and its hidden vectors are.

Two runs of different sizes are recorded whole. A place counts only if both show it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqlens.backends.torchscript_calls import Call, tensors_in
from seqlens.backends.torchscript_hidden import HiddenPlace, find_hidden
from seqlens.backends.torchscript_recording import Record, Recorder, record
from seqlens.backends.torchscript_rows import axis_of_rows, rearranges_rows
from seqlens.backends.torchscript_runner import Runner
from seqlens.backends.torchscript_traces import FLOAT_LAYERS
from seqlens.backends.torchscript_tracking import Candidate, Stage
from seqlens.backends.torchscript_watch import Place
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import ModelAnatomy

# Primes, so that no axis has the size of another by chance; long ones for models of samples.
_SIZES = (((2, 5), (3, 7)), ((2, 67), (3, 269)))
_SUMS_TO_ONE = 1e-2  # sums in half precision are off by less
_LOOKUPS = frozenset({"aten::embedding", "aten::index", "aten::index_select"})


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """Attention weights that the runs have shown."""

    stage: Stage
    operator: str
    fused: bool
    row_axis: int | None  # of its tensor; None: it has none


@dataclass(frozen=True, slots=True)
class Findings:
    """What two runs have shown."""

    weights: tuple[FoundWeights, ...]  # in order of execution
    pattern: tuple[int | None, ...]  # of each softmax: the stage in which it weighed something
    looped: bool  # the pattern is repeated as often as a loop of the model runs
    embedding: Place | None
    embedding_rows: int | None  # the axis of rows in the embedding
    rearranged: bool  # rows change places inside
    hidden: HiddenPlace | None
    recurrent: bool  # there are recurrent operators that can be followed


def probe(runner: Runner, anatomy: ModelAnatomy) -> Findings:
    """Find it all. Raises ``ModelRejected`` if the module does not run under watch."""
    first, second = _recorded(runner, anatomy)
    pattern, looped = _pattern(first.tracking.candidates, second.tracking.candidates)
    embedding = _embedding(runner, anatomy, first, second)
    return Findings(
        weights=tuple(
            _weights(first, second, number, one)
            for number, one in enumerate(pattern)
            if one.used is not None
        ),
        pattern=tuple(one.used for one in pattern),
        looped=looped,
        embedding=embedding,
        embedding_rows=_embedding_rows(embedding, first, second),
        rearranged=anatomy.fixed_batch is None and rearranges_rows(first, second),
        hidden=find_hidden(runner, anatomy, first, second),
        recurrent=any(seen.call.name in FLOAT_LAYERS for seen in second.records),
    )


def _pattern(
    first: Sequence[Candidate], second: Sequence[Candidate]
) -> tuple[Sequence[Candidate], bool]:
    """What both runs computed, in a loop where one of them did so more often.

    Empty where they have no order in common, so that nothing can be told apart.
    """
    if first == second:
        return second, False
    for period in range(1, len(first) + 1):
        part = first[:period]
        if all(_repeats(part, each) for each in (first, second)):
            return part, True
    return (), False


def _weights(first: Recorder, second: Recorder, number: int, found: Candidate) -> FoundWeights:
    assert found.used is not None
    stage = _stage(second, number, found.used)
    before, after = (one.stages[stage] for one in (first, second))
    rows = (first.rows, second.rows)
    # What a fused kernel gives for weights has the rows where the weights have them.
    axis = 0 if before.is_nested else axis_of_rows(before.shape, after.shape, rows)
    return FoundWeights(stage, found.operator, found.fused, axis)


def _stage(recorder: Recorder, number: int, used: int) -> Stage:
    """The last stage whose rows sum to one: behind guards, but before heads are scaled."""
    if used == 0:
        return Stage(number)
    stages = [Stage(number, place) for place in range(used, -1, -1)]
    return next((stage for stage in stages if _sums_to_one(recorder.stages[stage])), stages[0])


def _sums_to_one(weights: Tensor) -> bool:
    sums = (weights.double().sum(axis) for axis in range(weights.dim()))
    return any(bool(((each - 1).abs() < _SUMS_TO_ONE).all()) for each in sums)


def _repeats(part: Sequence[Candidate], whole: Sequence[Candidate]) -> bool:
    times, rest = divmod(len(whole), len(part))
    return not rest and [*part] * times == [*whole]


def _recorded(runner: Runner, anatomy: ModelAnatomy) -> tuple[Recorder, Recorder]:
    refusal: BackendFailed | None = None
    for sizes in _SIZES:
        try:
            first, second = (record(runner, anatomy, *size) for size in sizes)
        except BackendFailed as error:
            refusal = error
        else:
            return first, second
    raise ModelRejected(f"the model cannot be looked into: {refusal}") from refusal


def sequence_argument(runner: Runner, anatomy: ModelAnatomy) -> str | None:
    """The argument that takes the sequences, the first of several."""
    sequences = anatomy.sequence_inputs
    return runner.argument_of[sequences[0].name] if sequences else None


def _embedding(
    runner: Runner, anatomy: ModelAnatomy, first: Recorder, second: Recorder
) -> Place | None:
    """The first look-up by the very ids, else by others of their shape that derive from them."""
    name = sequence_argument(runner, anatomy)
    if name is None:
        return None
    alone = len(anatomy.sequence_inputs) == 1
    tests: list[Callable[[Recorder, Record], bool]] = [_looks_up(name, torch.equal)]
    if alone:
        tests.append(_looks_up(name, lambda ids, index: ids.shape == index.shape))
    for test in tests:
        for seen in second.records:
            other = first.by_place.get(seen.place)
            if other is not None and test(second, seen) and test(first, other):
                return seen.place
    return None


def _embedding_rows(place: Place | None, first: Recorder, second: Recorder) -> int | None:
    if place is None:
        return None
    before, after = (one.by_place[place].results[0].shape for one in (first, second))
    return axis_of_rows(before, after, (first.rows, second.rows))


def _looks_up(
    name: str, alike: Callable[[Tensor, Tensor], bool]
) -> Callable[[Recorder, Record], bool]:
    def test(recorder: Recorder, seen: Record) -> bool:
        ids, index = recorder.arguments[name], indices_of(seen.call)
        if index is None or index.is_floating_point() or index.dtype == torch.bool:
            return False
        turned = ids.t() if ids.dim() == 2 else ids
        return alike(ids, index.to(ids.dtype)) or alike(turned, index.to(ids.dtype))

    return test


def indices_of(call: Call) -> Tensor | None:
    """What a look-up in a table of vectors is indexed by; None for any other call."""
    if call.name not in _LOOKUPS:
        return None
    table = next(tensors_in(call.operands), None)
    if table is None or table.dim() != 2 or not table.is_floating_point():
        return None
    if call.name == "aten::index":
        indices = call.get("indices")
        return indices[0] if len(indices) == 1 else None
    index: Tensor = call.get("indices" if call.name == "aten::embedding" else "index")
    return index
