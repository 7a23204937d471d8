"""How what was seen inside a model is shown: on a terminal, as JSON, or as a page."""

import sys
from collections.abc import Callable
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens.api.insight.plain_data import InsightData
from seqlens.cli.asking import Looking

BAR = "█"
PARTS_OF_BAR = " ▏▎▍▌▋▊▉"
BAR_WIDTH = 24


def for_people(looking: Looking) -> bool:
    """Whether tables are shown, rather than everything for programs or for a page."""
    return sys.stdout.isatty() and not looking.showing.json and looking.showing.html is None


def show(
    looking: Looking, data: Callable[[], InsightData], tables: Callable[[Console], None]
) -> None:
    """Show it in the way that was asked for."""
    if for_people(looking):
        tables(Console())
    elif looking.showing.html is not None:
        _write_page(looking.showing.html, data())
    else:
        print(orjson.dumps(data(), option=orjson.OPT_SERIALIZE_NUMPY).decode())


def _write_page(path: Path, data: InsightData) -> None:
    from seqlens.api.insight.heatmap import render_page

    path.write_text(render_page(data), "utf-8")
    print(f"{path}: open it in a browser", file=sys.stderr)


def print_titled(console: Console, title: str, table: Table) -> None:
    """A table below a line, which unlike the table's own title may be wider than it."""
    console.print(Text(title, "bold"), soft_wrap=True)  # brackets in it are no markup of ours
    console.print(table)


def bar(value: float, largest: float) -> str:
    """A bar as long as ``value`` is in parts of ``largest``."""
    eighths = round(8 * BAR_WIDTH * value / largest) if largest > 0 else 0
    return BAR * (eighths // 8) + PARTS_OF_BAR[eighths % 8].strip()
