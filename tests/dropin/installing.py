"""Clients whose pins and ours do not agree, each installed in a place of its own.

What was installed stays in ``build/dropin`` until its pins change.
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "dropin"


def folder_with(name: str, pins: str, fill: Callable[[Path], None]) -> Path:
    """The folder ``name``, filled anew unless it was filled for the same ``pins``.

    Skips the test, with the reason, where the packages cannot be had.
    """
    folder = BUILD / name
    mark = folder / ".pins"
    if mark.exists() and mark.read_text() == pins:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        fill(folder)
    except subprocess.CalledProcessError as error:
        told = error.stderr.strip().splitlines() or [str(error)]
        pytest.skip(f"{name} cannot be installed: {told[-1]}")
    mark.write_text(pins)
    return folder


def python_with(name: str) -> Path:
    """A Python of its own with the pins of ``NAME-requirements.txt``."""
    requirements = HERE / f"{name}-requirements.txt"

    def fill(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        pip(folder / "bin" / "python", "-r", str(requirements))

    pins = f"{sys.version_info}\n{requirements.read_text()}"
    return folder_with(name, pins, fill) / "bin" / "python"


def pip(python: str | Path, *arguments: str) -> None:
    """``pip install`` from whatever index is configured."""
    call(str(python), "-m", "pip", "install", "--quiet", "--no-compile", *arguments)


def call(*command: str, folder: Path | None = None) -> None:
    """Run a command to its end. Raises ``CalledProcessError`` with what it wrote."""
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment)
