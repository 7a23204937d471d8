"""How long a sequence may be, and what else people should know about a model's limits."""

from collections.abc import Iterator, Sequence

from seqlens.graphs.axes import Probed, Run, attempt, difference
from seqlens.graphs.layouts import build

_LONGEST_TRIED = 2_048  # positions; attention over more takes too much memory for a probe
_SHORT = 60  # a probe that needed more than this says that short sequences do not run


def find_max_length(
    run: Run, probed: Probed, batch: str | None, time: str, tables: Sequence[int]
) -> tuple[int | None, tuple[str, ...]]:
    """The longest length that runs, None without a limit; and remarks for people.

    Candidates are the sizes of tables that the graph reads by position. A limit is one that runs
    while one position more does not.
    """
    single = {} if batch is None or batch in probed.frozen else {batch: 1}
    if attempt(run, build(probed.layout, {**probed.sizes, **single})) is None:
        single = {}
    for size in sorted({t for t in tables if t > probed.sizes[time]}):
        if size > _LONGEST_TRIED:
            return size, (f"a table of {size} rows is read by position; {size + 1} was not tried",)
        sizes = {**probed.sizes, **single}
        beyond = attempt(run, build(probed.layout, {**sizes, time: size + 1}))
        if beyond is None and attempt(run, build(probed.layout, {**sizes, time: size})) is not None:
            return size, ()
    return None, ()


def limit_findings(run: Run, probed: Probed, batch: str | None, time: str | None) -> Iterator[str]:
    """Remarks on sizes that are frozen or odd, and on answers that are not repeatable."""
    sizes = probed.sizes
    if time in probed.frozen:
        yield (
            f"only sequences of {sizes[time]} positions run: the length was frozen at export. "
            "Export with a dynamic length (dynamic_axes or dynamic_shapes; with dynamo, in a "
            "process of its own)"
        )
    elif time is not None and sizes[time] > _SHORT:
        yield f"short sequences do not run; {sizes[time]} positions do: the model needs a window"
    if batch in probed.frozen:
        yield f"only batches of {sizes[batch]} run: the batch was frozen at export"
    for block in dict.fromkeys(b for entry in probed.layout for b in entry.blocks):
        if block not in (batch, time):
            names = ", ".join(e.name for e in probed.layout if block in e.axes)
            yield f"{names}: has an axis of its own ({block}) beside batch and time"
    for name, axes in probed.outputs.items():
        if -1 in axes:
            yield f"output {name} follows the input's size, but not one entry a position"
    if _changes_by_itself(run, probed):
        yield (
            "the same input gives different answers: exported in training mode? call eval() on "
            "the outermost module before the export"
        )


def _changes_by_itself(run: Run, probed: Probed) -> bool:
    inputs = build(probed.layout, probed.sizes)
    first, second = attempt(run, inputs), attempt(run, inputs)
    if first is None or second is None:
        return False
    return any(bool((difference(first[n], second[n]) > 1e-5).any()) for n in first)
