"""``seqlens inspect``: the anatomy of a model, for people or as JSON."""

from pathlib import Path

from rich.console import Console

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.plugins import backend_for
from seqlens.cli.files import find_one
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.report import render, to_json
from seqlens.repository.config import read_config
from seqlens.repository.folder import CONFIG_FILE


def show_anatomy(path: Path, *, as_json: bool) -> None:
    """Print what is found. Raises ``ModelRejected`` for what cannot be read."""
    model, version = find_one(path)
    try:
        anatomy = _anatomy(version.path, model.folder)
    except SeqLensError as error:
        raise error.at(str(version.path)) from error
    if as_json:
        print(to_json(anatomy).decode())
    else:
        render(anatomy, Console(), title=str(path))


def _anatomy(file: Path, folder: Path) -> ModelAnatomy:
    config = read_config(folder / CONFIG_FILE)
    backend = backend_for(file, config.backend)
    engine = backend.load(file, LoadOptions(Device("cpu"), config.overrides()))
    try:
        return engine.anatomy
    finally:
        engine.close()
