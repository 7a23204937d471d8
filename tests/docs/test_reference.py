"""The reference pages say what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_tables_are_what_the_code_gives() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["settings", "errors", "grpc"])
def test_every_row_says_something(page: str) -> None:
    rows = re.findall(r"^\| `.*", (REFERENCE / f"{page}.md").read_text(), re.MULTILINE)
    assert rows
    for row in rows:
        assert all(cell.strip() for cell in row.strip("|").split("|")), row


def test_pages_are_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in REFERENCE.glob("*.md"):
        assert re.search(rf"docs/reference/{page.name}", readme), page.name
