"""Attention maps as BertViz takes them.

Each of ``sequences`` is an argument list of ``head_view`` and ``model_view``:
``head_view(tuple(map(torch.tensor, one["attention"])), one["tokens"])``.
"""

from typing import Any

import numpy as np

from seqlens.api.insight.heatmap import weights_of
from seqlens.api.insight.plain_data import InsightData, LayerData, MapData
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array

_EXPECTED = (
    "whole square maps of self-attention: no rollout, last_query, top_k or ranges of positions"
)


def write_bertviz(data: InsightData) -> dict[str, Any]:
    """Maps by sequence: for each layer an array [1, heads, length, length], and the tokens.

    ``layers`` and ``heads`` tell which they are: BertViz counts both from 0. Positions stand for
    tokens where there are none. Raises ``InvalidRequest`` for maps that BertViz cannot draw.
    """
    sequences = [_sequence(data, place) for place in range(len(data["sequences"]))]
    return {"model": data["model"], "version": data["version"], "sequences": sequences}


def _sequence(data: InsightData, place: int) -> dict[str, Any]:
    sequence = data["sequences"][place]
    if "error" in sequence:
        return {"error": sequence["error"]}
    drawn = [
        (layer, one)
        for layer in data["attention"]["layers"]
        for one in layer["maps"]
        if one["sequence"] == place
    ]
    _check_equal([one for _, one in drawn])
    length = sequence["length"]
    return {
        "tokens": sequence["tokens"] or [str(position) for position in range(length)],
        "attention": [_square(layer, one, length) for layer, one in drawn],
        "layers": [layer["site"]["layer"] for layer, _ in drawn],
        "sites": [layer["site"]["name"] for layer, _ in drawn],
        "heads": list(drawn[0][1]["heads"]) if drawn else [],
    }


def _square(layer: LayerData, one: MapData, length: int) -> Array:
    weights = weights_of(one)
    whole = weights.shape[1:] == (length, length) and "key_positions" not in one
    if not whole or one["query_start"] or one["key_start"] or layer["site"]["name"] == "rollout":
        _, queries, keys = weights.shape
        got = f"{queries} x {keys} of {layer['site']['name']!r} for {length} positions"
        raise InvalidRequest("format", got=f"bertviz for maps of {got}", expected=_EXPECTED)
    return np.expand_dims(weights, 0)


def _check_equal(maps: list[MapData]) -> None:
    """All layers are shown with the heads of the first."""
    numbers = sorted({len(one["weights"]) for one in maps})
    if len(numbers) > 1:
        raise InvalidRequest(
            "format",
            got=f"bertviz for layers of {' and '.join(map(str, numbers))} heads",
            expected="layers of equally many heads: choose some by selection.layers",
        )
