"""``seqlens gates``: the gates of LSTM and GRU layers at every position of texts."""

from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens.cli.asking import Connection, GateQuestion, Looking
from seqlens.cli.connecting import run_with_client
from seqlens.cli.insight_data import gates_data
from seqlens.cli.showing import print_titled, show
from seqlens_client import Client, GateLayer, Gates


def show_gates(connection: Connection, looking: Looking, question: GateQuestion) -> int:
    """Show the gates; returns 1 if any text has an error in place of them."""

    def look(client: Client) -> int:
        found = client.gates(
            looking.model,
            looking.texts,
            layers=question.layers or None,
            full=question.full,
            version=looking.showing.version,
            timeout=looking.showing.timeout,
            return_errors=True,
        )
        description = client.describe(looking.model, version=looking.showing.version)
        show(
            looking,
            partial(gates_data, description, found),
            partial(_print_tables, looking, found),
        )
        return int(any(each.error is not None for each in found.sequences))

    return run_with_client(connection, look)


def _print_tables(looking: Looking, found: Gates, console: Console) -> None:
    for index, (text, sequence) in enumerate(zip(looking.texts, found.sequences, strict=True)):
        if sequence.error is not None:
            console.print(Text(f"{text}\nerror: {sequence.error.message}"))
            continue
        for layer in found.layers:
            place = f"layer {layer.layer}, {layer.cell} {layer.direction}"
            title = f"{place}: means of {layer.units} units"
            print_titled(console, title, _table(layer, index))


def _table(layer: GateLayer, sequence: int) -> Table:
    """A line for each position, with each gate's mean over the units."""
    readings = [each for each in layer.gates if each.sequence == sequence]
    table = Table("position", "token")
    for reading in readings:
        table.add_column(reading.gate.replace("_", " "))
    tokens = layer.sequences[sequence].tokens
    for step in range(len(readings[0].mean) if readings else 0):
        token = Text(tokens[step] if step < len(tokens) else "")
        table.add_row(str(step), token, *(f"{reading.mean[step]:.3f}" for reading in readings))
    return table
