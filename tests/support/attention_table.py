"""The table in docs/reference/attention.md: made by the tests that measure what it says.

A test records each case that it has measured; the page has to have a row for it. With
SEQLENS_WRITE_ATTENTION_TABLE=1 the rows are written instead, those of cases that did not run stay.
"""

import os
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "attention.md"
BEGIN, END = "<!-- matrix:begin -->", "<!-- matrix:end -->"
HEAD = ("model", "exported as", "seen in", "maps", "largest error")
WRITING = bool(os.environ.get("SEQLENS_WRITE_ATTENTION_TABLE"))

Key = tuple[str, str]
_recorded: dict[Key, tuple[str, ...]] = {}


def record(model: str, form: str, operators: set[str], maps: int, error: float) -> None:
    """Note a case whose weights differ from the reference by ``error`` at most.

    Outputs are those without looking, to the bit, in every case: a test that records has to hold
    it.
    """
    cells = (model, form, ", ".join(sorted(operators)), str(maps), f"{error:.0e}")
    if WRITING:
        _recorded[model, form] = cells
        return
    assert _rows().get((model, form), ())[:4] == cells[:4], f"no such row in {PAGE.name}: {cells}"


def write() -> None:
    """Put what was recorded into the page."""
    if not _recorded:
        return
    rows = _rows() | _recorded
    lines = [_line(HEAD), _line(("---",) * len(HEAD)), *(_line(rows[key]) for key in sorted(rows))]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join((before + BEGIN, *lines, END)) + after)


def _rows() -> dict[Key, tuple[str, ...]]:
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    cells = (tuple(part.strip() for part in line.strip("|").split("|")) for line in lines)
    return {(row[0], row[1]): row for row in cells}


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
