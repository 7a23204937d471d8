"""From what a file says to what a model is: roles and axes, told by running it a few times.

The probes are small, seeded and the same for every format. A run that fails is an observation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from seqlens.datatypes import WIRE_TYPES
from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import (
    AnatomyOverrides,
    InputAnatomy,
    InputOverride,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputOverride,
    OutputRole,
)
from seqlens.graphs.architecture import decide
from seqlens.graphs.axes import Probed, Run, find_batch_and_time, find_layout, resized
from seqlens.graphs.behaviour import pair_states
from seqlens.graphs.frozen import name_fixed_axes
from seqlens.graphs.layouts import Axis, InputLayout
from seqlens.graphs.limits import find_max_length, limit_findings
from seqlens.graphs.reading import GraphReading
from seqlens.graphs.roles import (
    Found,
    View,
    find_roles,
    main_input,
    sounds_like_positions,
    sounds_like_segments,
)

__all__ = ["Run", "find_anatomy"]

_PROBE_ROWS, _PROBE_LENGTH = 3, 17
_Anatomy = TypeVar("_Anatomy", InputAnatomy, OutputAnatomy)


def find_anatomy(reading: GraphReading, run: Run, overrides: AnatomyOverrides) -> ModelAnatomy:
    """Find roles and axes of all inputs and outputs by running the model.

    ``run`` takes every input by name and returns every output by name; whatever it raises counts
    as a refusal of that probe. Where a reading does not tell an input's datatype or shape, ids
    [batch, time], features, lengths, masks and scalars are tried. What ``overrides`` states is
    not searched for. Raises ``ModelRejected`` with the model's own complaint if no probe runs.
    """
    probed = find_layout(reading, run, overrides)
    main = main_input(probed, overrides)
    batch, time = _batch_and_time(run, probed, main, overrides)
    probed = resized(probed, _comfortable(probed, batch, time), run)
    probed, batch, time = name_fixed_axes(probed, reading, main, batch, time)
    view = View(run, probed, probed.entry(main.name), batch, time)
    states = pair_states(probed, view.main, time)
    found, view = find_roles(view, set(states), overrides)
    inputs = tuple(_input(view, e, found[e.name], states, overrides) for e in view.probed.layout)
    outputs = tuple(_output(view, n, set(states.values()), overrides) for n in probed.outputs)
    return _assemble(reading, view, inputs, outputs, found, overrides)


def _batch_and_time(
    run: Run, probed: Probed, main: InputLayout, overrides: AnatomyOverrides
) -> tuple[str | None, str | None]:
    stated = overrides.inputs.get(main.name, InputOverride())
    batch, time = (
        None if axis is None or axis >= len(main.axes) else main.axes[axis]
        for axis in (stated.batch_axis, stated.time_axis)
    )
    if isinstance(batch, str) or isinstance(time, str):
        rest = [block for block in main.blocks if block not in (batch, time)]
        other = rest[0] if rest else None
        return (
            batch if isinstance(batch, str) else other,
            time if isinstance(time, str) else other,
        )
    return find_batch_and_time(run, probed, main) if main.blocks else (None, None)


def _comfortable(probed: Probed, batch: str | None, time: str | None) -> dict[str, int]:
    """Sizes at which roles can be told: a few rows, enough positions to hide some."""
    wanted = {} if batch is None else {batch: _PROBE_ROWS}
    return wanted if time is None else {**wanted, time: max(_PROBE_LENGTH, probed.sizes[time])}


def _input(
    view: View,
    entry: InputLayout,
    found: Found,
    states: dict[str, str],
    overrides: AnatomyOverrides,
) -> InputAnatomy:
    anatomy = InputAnatomy(
        name=entry.name,
        datatype=entry.datatype,
        shape=view.shape(entry.axes),
        role=found.role,
        batch_axis=view.place(entry.axes, view.batch),
        time_axis=view.place(entry.axes, view.time),
        vocabulary_size=entry.vocabulary_size,
        mask_marks=found.marks if found.role is InputRole.MASK else None,
        state_output=states.get(entry.name),
        trial_value=_trial_value(view, entry) if found.role is InputRole.OTHER else None,
        default=_default(view, entry, found),
    )
    return _overridden(anatomy, overrides.inputs.get(entry.name))


def _trial_value(view: View, entry: InputLayout) -> int | None:
    """The value with which the probes ran, where it was not drawn at random."""
    if entry.fill == "longest":
        return entry.longest(view.probed.sizes)
    return entry.fill if isinstance(entry.fill, int) else None


def _default(view: View, entry: InputLayout, found: Found) -> int | None:
    """Segment 0 for all positions, where an input beside the main one tells segments."""
    beside = found.role is InputRole.SEQUENCE and entry.name != view.main.name
    return 0 if beside and entry.is_integer and sounds_like_segments(entry) else None


def _output(view: View, name: str, states: set[str], overrides: AnatomyOverrides) -> OutputAnatomy:
    axes, answer = view.probed.outputs[name], view.probed.answers[name]
    times = tuple(i for i, axis in enumerate(axes) if view.time is not None and axis == view.time)
    batch_axis = view.place(axes, view.batch)
    role = OutputRole.STATE if name in states else _output_role(view, axes, answer, times)
    anatomy = OutputAnatomy(
        name, WIRE_TYPES.get(answer.dtype, "BYTES"), view.shape(axes), role, batch_axis, times
    )
    stated = overrides.outputs.get(name)
    overridden = _overridden(anatomy, stated)
    if stated is not None and stated.time_axis is not None:
        return replace(overridden, time_axes=(stated.time_axis,))
    return overridden


def _output_role(
    view: View, axes: Sequence[Axis], answer: np.ndarray, times: tuple[int, ...]
) -> OutputRole:
    foreign = (a for a in axes if isinstance(a, str) and a not in (view.batch, view.time))
    if -1 in axes or any(foreign):
        return OutputRole.OTHER
    if len(times) > 1:
        return OutputRole.ATTENTION if _sums_to_one(answer, times) else OutputRole.OTHER
    if times:
        return OutputRole.PER_STEP
    shared = view.batch is not None and view.batch not in axes
    return OutputRole.OTHER if shared else OutputRole.PER_SEQUENCE


def _sums_to_one(answer: np.ndarray, axes: tuple[int, ...]) -> bool:
    sums = (answer.astype(np.float64).sum(axis=axis) for axis in axes)
    return answer.dtype.kind == "f" and any(bool(np.allclose(s, 1.0, atol=1e-2)) for s in sums)


def _overridden(anatomy: _Anatomy, stated: InputOverride | OutputOverride | None) -> _Anatomy:
    """What the user states replaces what was found. Raises ``ModelRejected`` for axes beyond it."""
    if stated is None:
        return anatomy
    for axis in ("batch_axis", "time_axis"):
        number, rank = getattr(stated, axis), len(anatomy.shape)
        if number is not None and number >= rank:
            raise ModelRejected(
                f"model.yaml: {axis} of {anatomy.name!r} is {number}; expected less than {rank}, "
                "the number of its axes"
            )
    names = ["role", "batch_axis", "vocabulary_size", "mask_marks", "default"]
    names += ["time_axis"] if isinstance(stated, InputOverride) else []
    given = {n: v for n in names if (v := getattr(stated, n, None)) is not None}
    return replace(anatomy, **given)


def _assemble(
    reading: GraphReading,
    view: View,
    inputs: tuple[InputAnatomy, ...],
    outputs: tuple[OutputAnatomy, ...],
    found: dict[str, Found],
    overrides: AnatomyOverrides,
) -> ModelAnatomy:
    verdict = decide(reading)
    max_length, remarks = _max_length(reading, view, overrides)
    findings = (
        *reading.findings,
        *(f.finding for f in found.values() if f.finding),
        *limit_findings(view.run, view.probed, view.batch, view.time),
        *remarks,
    )
    return ModelAnatomy(
        inputs=inputs,
        outputs=outputs,
        architecture=overrides.architecture or verdict.architecture,
        evidence=tuple(_evidence(verdict.evidence, overrides)),
        sequential_depth=verdict.sequential_depth,
        recurrent_layers=reading.recurrent_layers,
        attention_sites=reading.attention_sites,
        parameters=reading.parameters,
        fixed_length=view.frozen_size(view.time),
        max_length=max_length,
        fixed_batch=view.frozen_size(view.batch),
        findings=findings,
        producer=reading.producer,
        precision=reading.precision,
    )


def _evidence(evidence: Sequence[str], overrides: AnatomyOverrides) -> Iterator[str]:
    yield from evidence
    if overrides.architecture is not None:
        yield f"stated by the configuration: {overrides.architecture}"


def _max_length(
    reading: GraphReading, view: View, overrides: AnatomyOverrides
) -> tuple[int | None, tuple[str, ...]]:
    if overrides.max_length is not None or view.time is None or view.time in view.probed.frozen:
        return overrides.max_length, ()
    found, remarks = find_max_length(
        view.run, view.probed, view.batch, view.time, reading.table_sizes
    )
    numbered = (e.vocabulary_size for e in view.probed.layout if sounds_like_positions(e))
    limits = [limit for limit in (found, *numbered) if limit is not None]
    return min(limits, default=None), remarks
