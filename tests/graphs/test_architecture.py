"""The architecture follows from layers and attention sites, with evidence in words."""

from dataclasses import replace

import pytest

from seqlens.graphs.anatomy import Architecture, AttentionSite, RecurrentLayer
from seqlens.graphs.architecture import decide
from seqlens.graphs.reading import GraphReading

EMPTY = GraphReading((), (), (), (), (), (), (), "", "fp32")
LSTM = RecurrentLayer("l", "lstm", "forward", 4, 8, operator="LSTM")
GRU = RecurrentLayer("g", "gru", "bidirectional", 4, 8, operator="GRU")
SELF, POOLING, CROSS = (
    AttentionSite("s", 0, kind, "Softmax")  # type: ignore[arg-type]
    for kind in ("self", "pooling", "cross")
)


@pytest.mark.parametrize(
    ("layers", "sites", "architecture", "depth"),
    [
        ((LSTM, LSTM), (), Architecture.LSTM, "O(n)"),
        ((GRU,), (), Architecture.GRU, "O(n)"),
        ((LSTM,), (POOLING,), Architecture.LSTM, "O(n)"),
        ((LSTM,), (SELF,), Architecture.MIXED, "O(n)"),
        ((GRU,), (CROSS,), Architecture.MIXED, "O(n)"),
        ((LSTM, GRU), (), Architecture.MIXED, "O(n)"),
        ((), (SELF, SELF), Architecture.TRANSFORMER, "O(1)"),
        ((), (POOLING,), Architecture.OTHER, "O(1)"),
        ((), (), Architecture.OTHER, "O(1)"),
    ],
)
def test_architectures(
    layers: tuple[RecurrentLayer, ...],
    sites: tuple[AttentionSite, ...],
    architecture: Architecture,
    depth: str,
) -> None:
    verdict = decide(replace(EMPTY, recurrent_layers=layers, attention_sites=sites))
    assert verdict.architecture is architecture
    assert verdict.sequential_depth == depth


def test_evidence_is_written_for_people() -> None:
    recurrent = decide(replace(EMPTY, recurrent_layers=(LSTM, LSTM)))
    assert recurrent.evidence == ("2 LSTM layers, hidden size 8, forward",)
    site = replace(SELF, heads=3)
    attentive = decide(replace(EMPTY, attention_sites=(site, site)))
    assert attentive.evidence == ("2 self-attention sites, 3 heads", "no recurrence")
    neither = decide(EMPTY)
    assert neither.evidence == ("neither a recurrent layer nor attention",)
