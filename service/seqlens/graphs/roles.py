"""Which role each input has: behaviour first, then names where behaviour leaves it open."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqlens.graphs.anatomy import AnatomyOverrides, InputOverride, InputRole, Marks
from seqlens.graphs.axes import Probed, Run
from seqlens.graphs.behaviour import Bench, lengths_verdict, mask_verdict, pair_states
from seqlens.graphs.layouts import Axis, Fill, InputLayout


@dataclass(frozen=True, slots=True)
class Found:
    """What an input turned out to be."""

    role: InputRole
    marks: Marks | None = None
    finding: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """A probed model with its main input and the blocks that are batch and time."""

    run: Run
    probed: Probed
    main: InputLayout
    batch: str | None
    time: str | None

    def place(self, axes: Sequence[Axis], block: str | None) -> int | None:
        """Where a block stands among axes."""
        return axes.index(block) if block is not None and block in axes else None

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """Axes as a shape, -1 for those of any size."""
        return tuple(self._size(axis) for axis in axes)

    def _size(self, axis: Axis) -> int:
        if isinstance(axis, int):
            return axis
        return self.probed.sizes[axis] if axis in self.probed.frozen else -1

    def frozen_size(self, block: str | None) -> int | None:
        """The only size of a block that runs."""
        return self.probed.sizes[block] if block in self.probed.frozen and block else None


def find_roles(
    view: View, states: set[str], overrides: AnatomyOverrides
) -> tuple[dict[str, Found], View]:
    """Roles of all inputs, masks first: once they hide nothing, lengths can be seen to.

    Also returns the view in which every mask hides nothing.
    """
    found: dict[str, Found] = {}
    for masks in (True, False):
        for entry in view.probed.layout:
            if entry.name in found or masks != _may_be_mask(view, entry):
                continue
            stated = overrides.inputs.get(entry.name, InputOverride())
            if stated.role is not None:
                found[entry.name] = Found(stated.role, stated.mask_marks)
            else:
                found[entry.name] = _role(view, entry, states)
            view = _without_hiding(view, entry, found[entry.name])
    return found, view


def _may_be_mask(view: View, entry: InputLayout) -> bool:
    only_batch_and_time = set(entry.axes) <= {view.batch, view.time}
    unknown = entry.name != view.main.name and entry.vocabulary_size is None
    return unknown and view.time in entry.axes and only_batch_and_time


def _role(view: View, entry: InputLayout, states: set[str]) -> Found:
    if entry.name in states:
        return Found(InputRole.STATE)
    if entry.name == view.main.name:
        return Found(InputRole.OTHER if view.time is None else InputRole.SEQUENCE)
    if view.time is None or not entry.axes:
        return Found(InputRole.OTHER)
    if view.time in entry.axes:
        return _role_beside_time(view, view.time, entry)
    if entry.is_integer and entry.axes == (view.batch,) and entry.vocabulary_size is None:
        return _lengths(view, view.time, entry)
    return Found(InputRole.OTHER)


def _role_beside_time(view: View, time: str, entry: InputLayout) -> Found:
    """Mask, positions, or a second sequence beside the main one."""
    if entry.is_integer and sounds_like_positions(entry):
        return Found(InputRole.POSITIONS)
    if not _may_be_mask(view, entry):
        return Found(InputRole.SEQUENCE)
    verdict = mask_verdict(Bench(view.run, view.probed, view.main, view.batch, time), entry)
    if verdict is not None:
        leaks = (
            f"{entry.name}: positions marked as padding change the answer of the file as exported"
        )
        return Found(InputRole.MASK, verdict.marks, leaks if verdict.leak else "")
    if entry.datatype == "BOOL" or "mask" in entry.name.lower():
        marks: Marks = "padding" if "pad" in entry.name.lower() else "real"
        unclear = f"{entry.name}: hides nothing in a trial; taken to mark {marks} positions by name"
        return Found(InputRole.MASK, marks, unclear)
    return Found(InputRole.SEQUENCE)


def _lengths(view: View, time: str, entry: InputLayout) -> Found:
    verdict = lengths_verdict(Bench(view.run, view.probed, view.main, view.batch, time), entry)
    if verdict is None:
        return Found(InputRole.OTHER)
    leaks = f"{entry.name}: positions beyond the length change the answer of the file as exported"
    return Found(InputRole.LENGTHS, finding=leaks if verdict.leak else "")


def _without_hiding(view: View, entry: InputLayout, found: Found) -> View:
    """The view with a mask set to hide nothing in the probes that follow."""
    if found.role is not InputRole.MASK:
        return view
    fill: Fill = 0 if found.marks == "padding" else 1
    layout = tuple(replace(e, fill=fill) if e.name == entry.name else e for e in view.probed.layout)
    return replace(view, probed=replace(view.probed, layout=layout))


def main_input(probed: Probed, overrides: AnatomyOverrides) -> InputLayout:
    """The input that carries the sequences for sure: stated, ids of a table, ids, features."""
    stated = {n for n, o in overrides.inputs.items() if o.role is InputRole.SEQUENCE}
    states = pair_states(probed, InputLayout("", "FP32", ()), None)
    free = [e for e in probed.layout if e.axes and e.name not in states] or list(probed.layout)

    def preference(entry: InputLayout) -> tuple[bool, int, bool, int]:
        ids = entry.is_integer and len(entry.axes) > 1
        return (
            entry.name not in stated,
            -(entry.vocabulary_size or 0) if not sounds_like_positions(entry) else 0,
            not ids,
            -(len(entry.blocks) if entry.datatype != "BOOL" else 0),
        )

    return min(free, key=preference)


def sounds_like_positions(entry: InputLayout) -> bool:
    """Whether the name says that an input numbers the positions: nothing else tells it from ids."""
    return "position" in entry.name.lower()


def sounds_like_segments(entry: InputLayout) -> bool:
    """Whether the name says that an input tells which segment of a text a position belongs to.

    Callers of Transformers expect to leave it out; a table of two rows may mean anything else.
    """
    name = entry.name.lower()
    return "segment" in name or "type_id" in name
