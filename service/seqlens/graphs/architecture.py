"""Which architecture a model is, with the evidence in words.

A model whose recurrence runs beside self- or cross-attention is ``mixed``. Attention that only
pools a recurrent net's outputs (a learned query, or additive scores over one source) leaves it
what it is: an LSTM with a pooled head is an LSTM.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seqlens.graphs.anatomy import Architecture, AttentionSite, RecurrentLayer
from seqlens.graphs.reading import GraphReading

_POOLING = frozenset({"pooling", "additive"})


@dataclass(frozen=True, slots=True)
class ArchitectureVerdict:
    """The architecture, why, and how the number of steps in sequence grows with the length."""

    architecture: Architecture
    evidence: tuple[str, ...]
    sequential_depth: Literal["O(n)", "O(1)", "unknown"]


def decide(reading: GraphReading) -> ArchitectureVerdict:
    """Tell the architecture from the layers and attention sites of a graph."""
    layers, sites = reading.recurrent_layers, reading.attention_sites
    evidence = [*_describe_layers(layers), *_describe_sites(sites)]
    if not layers and sites:
        evidence.append("no recurrence")
    if not layers and not sites:
        evidence.append("neither a recurrent layer nor attention")
    return ArchitectureVerdict(_name(layers, sites), tuple(evidence), "O(n)" if layers else "O(1)")


def _name(layers: Sequence[RecurrentLayer], sites: Sequence[AttentionSite]) -> Architecture:
    cells = {layer.cell for layer in layers}
    mixing = any(site.kind not in _POOLING for site in sites)
    if len(cells) > 1 or (cells and mixing):
        return Architecture.MIXED
    if cells:
        return Architecture(cells.pop())
    return Architecture.TRANSFORMER if mixing else Architecture.OTHER


def _describe_layers(layers: Sequence[RecurrentLayer]) -> list[str]:
    """One line for each kind: "2 LSTM layers, hidden size 128, forward"."""
    kinds: Counter[tuple[str, int | None, str, str]] = Counter()
    for layer in layers:
        written_out = ", written out as gates" if layer.operator == "unrolled" else ""
        kinds[layer.cell, layer.hidden_size, layer.direction, written_out] += layer.layers
    return [
        f"{count} {cell.upper()} layer{'s' * (count > 1)}"
        + (f", hidden size {size}" if size else "")
        + f", {direction}{written_out}"
        for (cell, size, direction, written_out), count in kinds.items()
    ]


def _describe_sites(sites: Sequence[AttentionSite]) -> list[str]:
    """One line for each kind: "6 self-attention sites, 12 heads"."""
    kinds = Counter((site.kind, site.heads) for site in sites)
    words = {
        "unknown": "attention",
        "pooling": "attention-pooling",
        "additive": "additive-attention",
    }
    return [
        f"{count} {words.get(kind, f'{kind}-attention')} site{'s' * (count > 1)}"
        + (f", {heads} heads" if heads else "")
        for (kind, heads), count in kinds.items()
    ]
