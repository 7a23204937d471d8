"""An anatomy told to people, on one screen, and to programs, as JSON."""

from collections.abc import Iterator, Sequence

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from seqlens.graphs.anatomy import (
    AttentionSite,
    InputAnatomy,
    ModelAnatomy,
    OutputAnatomy,
    RecurrentLayer,
)

_MOST_ROWS = 8  # layers or sites shown one by one; the rest are counted
_BAR_WIDTH = 24  # characters of the largest part's bar


def to_json(anatomy: ModelAnatomy, **more: object) -> bytes:
    """The whole anatomy as one JSON object, fields named as in ``ModelAnatomy``, and ``more``."""
    facts = msgspec.to_builtins(anatomy, str_keys=True) | more
    return msgspec.json.format(msgspec.json.encode(facts), indent=2)


def render(anatomy: ModelAnatomy, console: Console, *, title: str = "model") -> None:
    """Print what was found and why."""
    parts = (
        _summary(anatomy),
        _inputs(anatomy.inputs),
        _outputs(anatomy.outputs),
        *_layers(anatomy.recurrent_layers),
        *_sites(anatomy.attention_sites),
        *_parameters(anatomy),
        *_findings(anatomy.findings),
    )
    spaced = [part for one in parts for part in (one, Text())][:-1]
    heading = f"[bold]{escape(title)}[/]"
    console.print(Panel(Group(*spaced), title=heading, title_align="left", padding=(1, 2)))


def _summary(anatomy: ModelAnatomy) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    name = Text(anatomy.architecture.upper(), style="bold green")
    grid.add_row(
        "architecture", name + Text(f"  because: {'; '.join(anatomy.evidence)}", "default")
    )
    depth = {"O(n)": "grows with the length", "O(1)": "the same for every length"}
    meaning = depth.get(anatomy.sequential_depth, "not known")
    grid.add_row("steps in sequence", f"{anatomy.sequential_depth}, {meaning}")
    grid.add_row("lengths", _lengths_text(anatomy))
    grid.add_row("parameters", f"{anatomy.parameter_count:,} ({anatomy.precision})")
    grid.add_row("written by", escape(anatomy.producer or "unknown"))
    return grid


def _lengths_text(anatomy: ModelAnatomy) -> str:
    if not anatomy.has_time:
        return "takes no sequences of varying length"
    if anatomy.fixed_length is not None:
        return f"only {anatomy.fixed_length} positions"
    limit = f"up to {anatomy.max_length:,}" if anatomy.max_length else "no limit found"
    return f"{limit}; {'in batches' if anatomy.batched else 'one sequence at a time'}"


def _inputs(inputs: Sequence[InputAnatomy]) -> RenderableType:
    table = _table("input", "role", "type", "shape", "notes")
    for one in inputs:
        shape = _shape_text(one.shape, one.batch_axis, (one.time_axis,))
        notes = ", ".join(_input_notes(one))
        table.add_row(escape(one.name), one.role.value, one.datatype, shape, escape(notes))
    return table


def _input_notes(one: InputAnatomy) -> Iterator[str]:
    if one.vocabulary_size is not None:
        yield f"ids below {one.vocabulary_size:,}"
    if one.mask_marks is not None:
        yield f"set where {one.mask_marks}"
    if one.state_output is not None:
        yield f"continued by {one.state_output}"
    if one.trial_value is not None:
        yield f"tried with {one.trial_value}"
    if one.default is not None:
        yield f"{one.default} if left out"
    if one.added_by_server:
        yield "wired in by the server"
    elif one.made_by_server:
        yield "made by the server if left out"


def _outputs(outputs: Sequence[OutputAnatomy]) -> RenderableType:
    table = _table("output", "role", "type", "shape")
    for one in outputs:
        shape = _shape_text(one.shape, one.batch_axis, one.time_axes)
        table.add_row(escape(one.name), one.role.value, one.datatype, shape)
    return table


def _layers(layers: Sequence[RecurrentLayer]) -> Iterator[RenderableType]:
    if not layers:
        return
    table = _table("recurrent layer", "cell", "direction", "sizes", "starts from", "operator")
    for layer in layers[:_MOST_ROWS]:
        sizes = f"{layer.input_size or '?'} -> {layer.hidden_size or '?'}"
        stacked = f" x {layer.layers}" if layer.layers > 1 else ""
        table.add_row(
            escape(layer.name),
            layer.cell,
            layer.direction,
            sizes + stacked,
            layer.initial_state,
            layer.operator,
        )
    yield _counted(table, len(layers))


def _sites(sites: Sequence[AttentionSite]) -> Iterator[RenderableType]:
    if not sites:
        return
    table = _table("attention site", "layer", "kind", "heads", "operator", "certainty")
    for site in sites[:_MOST_ROWS]:
        heads = str(site.heads or "?")
        certainty = f"{site.confidence:.0%}"
        row = (escape(site.name), str(site.layer), site.kind, heads, site.operator, certainty)
        table.add_row(*row)
    yield _counted(table, len(sites))


def _parameters(anatomy: ModelAnatomy) -> Iterator[RenderableType]:
    if not anatomy.parameters:
        return
    table = _table("part", "parameters", "share")
    largest = max(group.count for group in anatomy.parameters)
    for group in anatomy.parameters:
        bar = "█" * round(_BAR_WIDTH * group.count / largest)
        share = f"{group.count / anatomy.parameter_count:6.1%} [blue]{bar}[/]"
        table.add_row(group.part, f"{group.count:,}", share)
    yield table


def _findings(findings: Sequence[str]) -> Iterator[RenderableType]:
    if findings:
        yield Text("\n".join(f"! {finding}" for finding in findings), style="yellow")


def _counted(table: Table, rows: int) -> Table:
    """The table, with a last line that counts what it leaves out."""
    if rows > _MOST_ROWS:
        table.add_row(f"... and {rows - _MOST_ROWS} more")
    return table


def _table(*columns: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 1)
    )
    for number, column in enumerate(columns):
        style = "cyan" if number == 0 else ""
        table.add_column(column, style=style, overflow="fold")
    return table


def _shape_text(
    shape: Sequence[int], batch_axis: int | None, time_axes: Sequence[int | None]
) -> str:
    """A shape with its axes named: "batch x time x 384"."""
    return (
        " x ".join(_axis_text(i, size, batch_axis, time_axes) for i, size in enumerate(shape))
        or "scalar"
    )


def _axis_text(
    axis: int, size: int, batch_axis: int | None, time_axes: Sequence[int | None]
) -> str:
    fixed = f"={size}" if size >= 0 else ""
    if axis == batch_axis:
        return f"batch{fixed}"
    if axis in time_axes:
        return f"time{fixed}"
    return str(size) if size >= 0 else "any"
