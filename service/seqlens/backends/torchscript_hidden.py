"""The last tensor with one vector a position that a module's answer is computed from.

Met walking back from the outputs, in front of a head that classifies positions one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from seqlens.backends.torchscript_calls import Key, key_of
from seqlens.backends.torchscript_recording import Record, Recorder
from seqlens.backends.torchscript_runner import Runner
from seqlens.backends.torchscript_watch import Place
from seqlens.graphs.anatomy import ModelAnatomy, OutputRole
from seqlens.graphs.torchscript_operators import HIDING, PRODUCTS, VIEWS
from seqlens.sequences import Array

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


def find_hidden(
    runner: Runner, anatomy: ModelAnatomy, first: Recorder, second: Recorder
) -> HiddenPlace | None:
    """Find it in two runs of different sizes."""
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
