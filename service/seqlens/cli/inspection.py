"""``seqlens inspect``: the anatomy of a model, for people or as JSON."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.plugins import backend_for
from seqlens.cli.files import FoundFile, find_one
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.report import render, to_json
from seqlens.repository.signature import check_signature


def show_anatomy(path: Path, *, as_json: bool) -> None:
    """Print what is found. Raises ``ModelRejected`` for what cannot be read."""
    found = find_one(path)
    try:
        anatomy = _anatomy(found)
    except SeqLensError as error:
        raise error.at(str(found.path)) from error
    if as_json:
        print(to_json(anatomy).decode())
    else:
        render(anatomy, Console(), title=str(path))


def _anatomy(found: FoundFile) -> ModelAnatomy:
    """What is found, with what is stated without effect among the findings."""
    config, signature = found.stated.config, found.stated.signature
    backend = backend_for(found.path, config.backend)
    options = LoadOptions(Device("cpu"), config.overrides(), signature=signature)
    engine = backend.load(found.path, options)
    try:
        if signature is not None:
            check_signature(signature, engine.anatomy)
        findings = (*engine.anatomy.findings, *found.stated.notes)
        return replace(engine.anatomy, findings=findings)
    finally:
        engine.close()
