"""``seqlens influence``: how much an answer depends on each position of texts."""

from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens.cli.asking import Connection, InfluenceQuestion, Looking
from seqlens.cli.connecting import run_with_client
from seqlens.cli.insight_data import influence_data
from seqlens.cli.showing import bar, for_people, print_titled, show
from seqlens_client import (
    Client,
    Influence,
    InfluenceByDistance,
    InfluenceMap,
    InfluenceTarget,
    ModelDescription,
)

PREDICTED = "predicted"
BELOW_FLOOR = "below floor"


def show_influence(connection: Connection, looking: Looking, question: InfluenceQuestion) -> int:
    """Show what was measured; returns 1 if any text has an error in place of it."""

    def look(client: Client) -> int:
        description = client.describe(looking.model, version=looking.showing.version)
        found = _ask(client, looking, question, description)
        show(
            looking,
            partial(influence_data, description, found),
            partial(_print_tables, looking, found),
        )
        return int(any(each.error is not None for each in found.sequences))

    return run_with_client(connection, look)


def _ask(
    client: Client, looking: Looking, question: InfluenceQuestion, description: ModelDescription
) -> Influence:
    rows = question.output_positions or None
    if rows is None and for_people(looking) and _has_positions(description, question.about):
        rows = (-1,)
    return client.influence(
        looking.model,
        looking.texts,
        measures=question.measures,
        target=_target(question.about),
        output_positions=rows,
        exact=question.exact,
        by_distance=question.by_distance,
        version=looking.showing.version,
        timeout=looking.showing.timeout,
        return_errors=True,
    )


def _target(about: str) -> InfluenceTarget | str | int | None:
    if about == PREDICTED:
        return InfluenceTarget(predicted_class=True)
    return int(about) if about.isdecimal() else about or None


def _has_positions(description: ModelDescription, about: str) -> bool:
    """Whether what is looked at has a row for each position."""
    if about == "hidden":
        return True
    named = [each for each in description.outputs if each.name == about]
    output = (*named, *description.outputs)[0]
    return output.role == "per_step"


def _print_tables(looking: Looking, found: Influence, console: Console) -> None:
    for index, (text, sequence) in enumerate(zip(looking.texts, found.sequences, strict=True)):
        if sequence.error is not None:
            console.print(Text(f"{text}\nerror: {sequence.error.message}"))
            continue
        maps = [each for each in found.maps if each.sequence == index]
        for row in range(len(maps[0].values) if maps else 0):
            print_titled(console, _title(found.target, maps[0], row), _table(maps, row))
    for summary in found.by_distance:
        print_titled(console, f"{summary.measure} by distance", _distance_table(summary))
    runs = f"{found.model_runs} runs of the model, {found.seconds:.2f} s"
    console.print(Text(f"{runs} (predicted {found.predicted_seconds:.2f} s)"))


def _title(target: InfluenceTarget, one: InfluenceMap, row: int) -> str:
    at = f" at position {one.output_positions[row]}" if one.output_positions else ""
    return f"what the {_about(target)} of {target.output or 'the first output'}{at} depends on"


def _table(maps: list[InfluenceMap], row: int) -> Table:
    """A line for each position; each measure has its share, and a bar of it."""
    table = Table("position", "token")
    for each in maps:
        table.add_column(Text(f"{each.measure}, {each.method.replace('_', ' ')}"))
        table.add_column("")
    for column, position in enumerate(maps[0].input_positions):
        cells = [cell for each in maps for cell in _cells(each, row, column)]
        table.add_row(str(position), Text(maps[0].text(position)), *cells)
    return table


def _about(target: InfluenceTarget) -> str:
    if target.class_index is not None:
        return f"element {target.class_index}"
    return "largest element" if target.predicted_class else "norm"


def _cells(one: InfluenceMap, row: int, column: int) -> tuple[str, str]:
    if one.below_floor[row, column]:
        return BELOW_FLOOR, ""
    share, largest = float(one.shares[row, column]), float(one.shares[row].max())
    return f"{share:.3f}", bar(share, largest)


def _distance_table(summary: InfluenceByDistance) -> Table:
    columns = ("distance", "share", "value", "positions", BELOW_FLOOR, "sequential steps")
    table = Table(*columns)
    for index, distance in enumerate(summary.distances):
        value = summary.mean_value[index]
        table.add_row(
            str(distance),
            f"{summary.mean_share[index]:.3f}",
            BELOW_FLOOR if np.isnan(value) else f"{value:.3g}",
            str(summary.counts[index]),
            str(summary.below_floor[index]),
            str(summary.sequential_steps[index]),
        )
    return table
