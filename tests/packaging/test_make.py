"""The Makefile offers what the documents quote, and every target at least parses."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]
TARGETS = re.findall(r"^\.PHONY: (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not on PATH")
    # Without what `make test` hands on to the make that it runs in.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run([make, *arguments], capture_output=True, text=True, cwd=ROOT, env=own)


def test_the_promised_targets_are_there() -> None:
    assert {"demo", "serve", "test", "lint", "proto", "bench", "help", "clean"} <= set(TARGETS)


def test_help_tells_of_every_target() -> None:
    told = [line.split()[0] for line in make("help").stdout.splitlines()]
    assert told == TARGETS
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_expands_to_commands_that_bash_reads(target: str) -> None:
    # A folder that is not there: the set-up is part of what is expanded.
    planned = make("--dry-run", "--always-make", "VENV=build/no-such-venv", target)
    assert planned.returncode == 0, planned.stderr
    read = subprocess.run(["bash", "-n"], input=planned.stdout, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_documents_quote_only_targets_that_exist() -> None:
    quoted = {
        target
        for document in DOCUMENTS
        if document.exists()
        for target in re.findall(r"(?:^|`|\$ )make ([a-z]+)", document.read_text(), re.MULTILINE)
    }
    assert "test" in quoted
    assert quoted <= set(TARGETS)


def test_no_file_of_the_set_up_names_a_package_index() -> None:
    files = ["Makefile", "pyproject.toml", "constraints.txt", "service/Dockerfile", ".ci/run",
             "docker-compose.yml", "tests/models-requirements.txt"]  # fmt: skip
    for name in files:
        assert not re.search(r"https?://(?!localhost)", (ROOT / name).read_text()), name


def test_shell_scripts_parse() -> None:
    check = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, text=True)
    assert (check.returncode, check.stderr) == (0, "")
