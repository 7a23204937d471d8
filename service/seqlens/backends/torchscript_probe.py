"""What a module does in a run: where its attention, its embedding and its hidden vectors are.

Two runs of different sizes are recorded whole. A place counts only if both show it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqlens.backends.torchscript_calls import Call, Key, key_of, tensors_in
from seqlens.backends.torchscript_runner import Runner, leaves
from seqlens.backends.torchscript_tracking import Candidate, Nature, Stage
from seqlens.backends.torchscript_watch import Place, Wanted, Watch
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import ModelAnatomy, OutputRole
from seqlens.graphs.torchscript_operators import HIDING, PRODUCTS, VIEWS
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array

# Primes, so that no axis has the size of another by chance; long ones for models of samples.
_SIZES = (((2, 5), (3, 7)), ((2, 67), (3, 269)))
_LOOKUPS = frozenset({"aten::embedding", "aten::index", "aten::index_select"})
# Between an output and the product that is its head, these keep positions apart.
_HEAD_PASSES = (
    VIEWS
    | HIDING
    | frozenset(
        {
            "aten::softmax",
            "aten::log_softmax",
            "aten::sigmoid",
            "aten::exp",
            "aten::add",
            "aten::sub",
        }
        | {"aten::mul", "aten::clamp"}
    )
)
_WEIGHS = frozenset({"aten::mul", "aten::where", "aten::masked_fill"})


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """Attention weights that the runs have shown."""

    stage: Stage
    operator: str
    fused: bool


@dataclass(frozen=True, slots=True)
class HiddenPlace:
    """Where the hidden vectors are. Without a batch axis the tensor is [time, width]."""

    place: Place
    batch_axis: int | None
    time_axis: int

    def arranged(self, array: Array) -> Array:
        """The vectors as [batch, time, width]."""
        if self.batch_axis is None:
            return array[None]
        return array if self.batch_axis < self.time_axis else array.swapaxes(0, 1)


@dataclass(frozen=True, slots=True)
class Findings:
    """What two runs have shown."""

    weights: tuple[FoundWeights, ...]  # in order of execution
    steady: bool  # the same weights were computed at both lengths
    embedding: Place | None
    hidden: HiddenPlace | None


@dataclass(frozen=True, slots=True)
class Record:
    """One call of a recorded run."""

    place: Place
    call: Call
    data: tuple[Tensor, ...]  # operands that derive from the run's inputs
    results: tuple[Tensor, ...]


class Recorder(Watch):  # type: ignore[no-untyped-call]
    """Remembers all of a run, and so keeps every tensor of it: for small runs only."""

    def __init__(self, rows: int, length: int) -> None:
        super().__init__(Wanted())
        self.rows, self.length = rows, length
        self.records: list[Record] = []
        self.outputs: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}

    def noted(self, place: Place, call: Call, result: Any, nature: Nature) -> None:
        """Keep the call."""
        data = tuple(t for t in call.tensors if self.tracking.is_data(t))
        super().noted(place, call, result, nature)
        if nature.data:
            self.records.append(Record(place, call, data, tuple(tensors_in(result))))

    def answered(self, result: Any) -> None:
        """Keep the answers."""
        self.outputs = leaves(result)

    @property
    def by_place(self) -> dict[Place, Record]:
        """The calls by their places."""
        return {record.place: record for record in self.records}

    @property
    def used(self) -> tuple[tuple[int, Candidate], ...]:
        """Candidates that have proved to be attention weights, with their numbers."""
        found = enumerate(self.tracking.candidates)
        return tuple((number, one) for number, one in found if one.used is not None)


def probe(runner: Runner, anatomy: ModelAnatomy) -> Findings:
    """Find it all. Raises ``ModelRejected`` if the module does not run under watch."""
    first, second = _recorded(runner, anatomy)
    weights = tuple(
        FoundWeights(Stage(number, one.used or 0), one.operator, one.fused)
        for number, one in second.used
    )
    return Findings(
        weights,
        first.used == second.used,
        _embedding(runner, anatomy, first, second),
        _hidden(runner, anatomy, first, second),
    )


def _recorded(runner: Runner, anatomy: ModelAnatomy) -> tuple[Recorder, Recorder]:
    refusal: BackendFailed | None = None
    for sizes in _SIZES:
        try:
            first, second = (_record(runner, anatomy, *size) for size in sizes)
        except BackendFailed as error:
            refusal = error
        else:
            return first, second
    raise ModelRejected(f"the model cannot be looked into: {refusal}") from refusal


def _record(runner: Runner, anatomy: ModelAnatomy, rows: int, length: int) -> Recorder:
    inputs = trial_inputs(anatomy, rows, length)
    recorder = Recorder(anatomy.fixed_batch or rows, anatomy.fixed_length or length)
    runner.run(inputs, recorder)
    recorder.arguments = runner.arguments(inputs)
    return recorder


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
        for record in second.records:
            other = first.by_place.get(record.place)
            if other is not None and test(second, record) and test(first, other):
                return record.place
    return None


def _looks_up(
    name: str, alike: Callable[[Tensor, Tensor], bool]
) -> Callable[[Recorder, Record], bool]:
    def test(recorder: Recorder, record: Record) -> bool:
        ids, index = recorder.arguments[name], indices_of(record.call)
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


def _hidden(
    runner: Runner, anatomy: ModelAnatomy, first: Recorder, second: Recorder
) -> HiddenPlace | None:
    named = runner.named(second.outputs)
    for output in anatomy.outputs:
        tensor = named.get(output.name)
        if not isinstance(tensor, Tensor):
            continue
        if output.role is OutputRole.PER_STEP:
            start, until = _before_head(second, tensor)
        elif output.role is OutputRole.PER_SEQUENCE:
            start, until = key_of(tensor), len(second.records)
        else:
            continue
        for record in _behind(second.records[:until], start):
            place = _vectors(record, first, second, anatomy.batched)
            if place is not None:
                return _behind_weighing(place, record, first, second, anatomy.batched)
    return None


def _before_head(recorder: Recorder, output: Tensor) -> tuple[Key, int]:
    """What the last product with weights reads, if nothing but such a head lies behind it."""
    own = key_of(output), len(recorder.records)
    key, until = own
    while (index := _producer(recorder.records, key, until)) is not None:
        record = recorder.records[index]
        sources = {key_of(tensor) for tensor in record.data}
        if len(sources) != 1:
            return own
        key, until = sources.pop(), index
        if record.call.name in PRODUCTS:
            return key, until
        if record.call.name not in _HEAD_PASSES:
            return own
    return own


def _producer(records: list[Record], key: Key, until: int) -> int | None:
    return next(
        (i for i in range(until - 1, -1, -1) if key in {key_of(t) for t in records[i].results}),
        None,
    )


def _behind(records: list[Record], start: Key) -> Iterator[Record]:
    """The calls that made what lies at ``start``, the last one first."""
    needed = {start}
    for record in reversed(records):
        if any(key_of(tensor) in needed for tensor in record.results):
            needed |= {key_of(tensor) for tensor in record.data}
            yield record


def _vectors(
    record: Record, first: Recorder, second: Recorder, batched: bool
) -> HiddenPlace | None:
    """Whether a call's first result has one vector a position in both runs."""
    other = first.by_place.get(record.place)
    if other is None or not record.results or not other.results:
        return None
    tensor = record.results[0]
    if not tensor.is_floating_point() or tensor.is_nested or other.results[0].is_nested:
        return None
    sizes = list(zip(other.results[0].shape, tensor.shape, strict=False))
    if tensor.dim() != 2 + batched or other.results[0].dim() != tensor.dim():
        return None
    rows, times = (first.rows, second.rows), (first.length, second.length)
    orders = ((0, 1), (1, 0)) if batched else ((None, 0),)
    for batch, time in orders:
        fits = sizes[time] == times and (batch is None or sizes[batch] == rows)
        if fits and sizes[-1][0] == sizes[-1][1] > 1:
            return HiddenPlace(record.place, batch, time)
    return None


def _behind_weighing(
    place: HiddenPlace, record: Record, first: Recorder, second: Recorder, batched: bool
) -> HiddenPlace:
    """The vectors themselves, where what was found is them with padding hidden, or weighed."""
    while record.call.name in _WEIGHS:
        before = second.records[: second.records.index(record)]
        made = [_producer(before, key_of(t), len(before)) for t in record.data]
        found = [
            (one, before[i])
            for i in made
            if i is not None and (one := _vectors(before[i], first, second, batched)) is not None
        ]
        if len(found) != 1:
            return place
        place, record = found[0]
    return place
