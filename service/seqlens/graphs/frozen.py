"""Batch and time axes that an export declares with one fixed size.

Probing cannot vary them, so they are told by their place: ids are [batch, time], features
[batch, time, width] or [time, batch, width].
"""

from collections.abc import Sequence
from dataclasses import replace

from seqlens.graphs.axes import Probed
from seqlens.graphs.layouts import Axis, InputLayout
from seqlens.graphs.reading import GraphReading

FIXED_BATCH, FIXED_TIME = "fixed batch", "fixed time"


def name_fixed_axes(
    probed: Probed, reading: GraphReading, main: InputLayout, batch: str | None, time: str | None
) -> tuple[Probed, str | None, str | None]:
    """Turn fixed sizes of the main input that are its batch or time into blocks of their own."""
    batch_axis, time_axis = _fixed_places(reading, main, batch, time)
    if time_axis is not None:
        probed, time = _as_block(probed, main, time_axis, FIXED_TIME), FIXED_TIME
    if batch_axis is not None:
        probed, batch = _as_block(probed, main, batch_axis, FIXED_BATCH), FIXED_BATCH
    return probed, batch, time


def _fixed_places(
    reading: GraphReading, main: InputLayout, batch: str | None, time: str | None
) -> tuple[int | None, int | None]:
    """Places of the fixed batch axis and the fixed time axis, each None if there is none."""
    places = [i for i, axis in enumerate(main.axes) if isinstance(axis, int)]
    if not main.is_integer and main.axes:
        places = places[:-1]  # the last one is the width of the features
    if time is not None:
        return (places[0] if batch is None and places else None), None
    if not _takes_sequences(reading, main):
        single = batch is None and bool(places) and main.axes[places[0]] == 1
        return (places[0] if single else None), None
    if batch is not None or len(places) < 2:
        return None, next(iter(places), None)
    if main.axes[places[1]] == 1 and main.axes[places[0]] != 1:  # time-major
        return places[1], places[0]
    return places[0], places[1]


def _takes_sequences(reading: GraphReading, main: InputLayout) -> bool:
    inside = bool(reading.recurrent_layers or reading.attention_sites)
    return (main.is_integer and main.vocabulary_size is not None) or (
        inside and (main.is_integer or len(main.axes) > 2)
    )


def _as_block(probed: Probed, main: InputLayout, place: int, block: str) -> Probed:
    size = main.axes[place]
    layout = tuple(
        replace(entry, axes=_named(entry.axes, size, place, block)) for entry in probed.layout
    )
    outputs = {n: _named(axes, size, place, block) for n, axes in probed.outputs.items()}
    sizes = {**probed.sizes, block: int(size)}
    return replace(
        probed, layout=layout, outputs=outputs, sizes=sizes, frozen=probed.frozen | {block}
    )


def _named(axes: Sequence[Axis], size: Axis, place: int, block: str) -> tuple[Axis, ...]:
    """The axes with the one of this size named: at the same place if there, else the first."""
    order = sorted(range(len(axes)), key=lambda axis: axis != place)
    match = next((axis for axis in order if axes[axis] == size), None)
    return tuple(block if axis == match else label for axis, label in enumerate(axes))
