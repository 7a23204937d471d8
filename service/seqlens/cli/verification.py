"""``seqlens verify``: whether batching changes answers, for people or as JSON."""

import math
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqlens.backends.plugins import find_all
from seqlens.cli.attention_sites import print_sites
from seqlens.cli.files import find_one
from seqlens.errors import SeqLensError
from seqlens.repository.loading import LoadedModel, Loader
from seqlens.settings import ServerSettings


def show_proof(path: Path, *, as_json: bool) -> None:
    """Load a model as the server would, prove it anew, and print what came out.

    Raises ``ModelRejected`` for what cannot be served.
    """
    found = find_one(path)
    loader = Loader(ServerSettings(path), find_all(), cache=None)
    try:
        loaded = loader.load(found.model, found.version, found.path, found.stated)
    except SeqLensError as error:
        raise error.at(str(found.path)) from error
    if as_json:
        facts = _spelt_out(msgspec.to_builtins(_facts(loaded), str_keys=True))
        print(msgspec.json.format(msgspec.json.encode(facts)).decode())
    else:
        _print(loaded)
    loaded.engine.close()


def _facts(model: LoadedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": model.version,
        "strategy": model.decision.strategy,
        "reason": model.decision.reason,
        "proof": model.proof,
        "attention": model.attention,
        "max_length": model.max_length,
        "max_length_source": model.max_length_source,
        "notes": model.notes,
        "costs": model.cost.measurements,
    }


def _spelt_out(value: Any) -> Any:
    """The same with ``"inf"`` for infinity, for which JSON has no number: null is "not tried"."""
    if isinstance(value, dict):
        return {key: _spelt_out(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spelt_out(one) for one in value]
    return "inf" if value == math.inf else value


def _print(model: LoadedModel) -> None:
    console, proof = Console(), model.proof
    console.print(f"[bold]{escape(model.name)}[/] is served [bold]{model.decision.strategy}[/]")
    console.print(escape(model.decision.reason))
    console.print(
        f"tolerance {proof.tolerance:.1e}, probes may differ by {proof.allowed_error:.1e}, "
        f"{proof.checked_sequences} sequences tried"
    )
    table = Table(
        "length", "alone again", "among equal lengths", "among other lengths",
        title="largest difference from the answer alone",
    )  # fmt: skip
    for one in proof.by_length:
        errors = (one.repeat_error, one.equal_length_error, one.padded_error)
        table.add_row(str(one.length), *("-" if e is None else f"{e:.1e}" for e in errors))
    console.print(table)
    print_sites(model.attention, console)
    for note in (*model.attention.findings, *model.notes):
        console.print(f"[yellow]! {escape(note)}[/]")
    if proof.exported_error is not None:
        console.print(f"as exported, before lengths were wired in: {proof.exported_error:.1e}")
