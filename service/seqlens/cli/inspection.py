"""``seqlens inspect``: the anatomy of a model, for people or as JSON."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from seqlens.attention.sites import AttentionReport
from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.plugins import backend_for
from seqlens.cli.attention_sites import print_sites
from seqlens.cli.files import FoundFile, find_one
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.report import render, to_json
from seqlens.repository.attention_proof import prove_attention
from seqlens.repository.signature import check_signature
from seqlens.settings import InsightSettings


def show_anatomy(path: Path, *, as_json: bool) -> None:
    """Print what is found. Raises ``ModelRejected`` for what cannot be read."""
    found = find_one(path)
    try:
        anatomy, attention = _inspected(found)
    except SeqLensError as error:
        raise error.at(str(found.path)) from error
    if as_json:
        print(to_json(anatomy, attention=attention).decode())
    else:
        console = Console()
        render(anatomy, console, title=str(path))
        print_sites(attention, console)


def _inspected(found: FoundFile) -> tuple[ModelAnatomy, AttentionReport]:
    """What is found, with what is stated without effect among the findings; attention as tried."""
    config, signature = found.stated.config, found.stated.signature
    backend = backend_for(found.path, config.backend)
    options = LoadOptions(Device("cpu"), config.overrides(), signature=signature)
    engine = backend.load(found.path, options)
    try:
        if signature is not None:
            check_signature(signature, engine.anatomy)
        attention = prove_attention(engine, seconds=InsightSettings().proof_seconds)
        findings = (*engine.anatomy.findings, *attention.findings, *found.stated.notes)
        return replace(engine.anatomy, findings=findings), attention
    finally:
        engine.close()
