"""What was seen inside a model that was never run: figures of any size for pages and files."""

from typing import Any

import numpy as np

from seqlens.api.insight.plain_data import InsightData, SiteData
from seqlens.sequences import Array

KITTEN = ["The", "kitten", "chased", "the", "ball", "until", "it", "rolled", "under", "the", "old",
          "sofa", "and", "then", "it", "slept", "because", "it", "was", "tired"]  # fmt: skip


def site_data(layer: int = 0, *, proved: bool = True, **changed: Any) -> SiteData:
    proof: Any = {"proved": proved, "reason": "", "axes": ["batch", "head", "query", "key"],
                  "row_sum_error": 2.4e-7, "padding_weight": 0.0, "repeat_error": 0.0,
                  "output_error": 0.0, "feedback_error": 0.0,
                  "uniform_movement": 3.4}  # fmt: skip
    if not proved:
        proof = {"proved": False, "reason": "rows do not sum to 1", "axes": proof["axes"]}
    site: SiteData = {"name": f"/encoder/layers.{layer}/Softmax", "layer": layer, "kind": "self",
                      "operator": "Softmax", "heads": 8, "confidence": 1.0, "tappable": True,
                      "measured": True, "proof": proof, "note": ""}  # fmt: skip
    return SiteData(**{**site, **changed})


def softmaxed(heads: int, queries: int, keys: int, seed: int = 0) -> Array:
    """Weights of heads that look at different distances, float32 [heads, queries, keys]."""
    rng = np.random.default_rng(seed)
    query, key = np.arange(queries)[:, None], np.arange(keys)[None]
    scores = np.stack([
        -np.abs(query - key - 3 * head + 4) / (1 + head) + rng.normal(0, 1.2, (queries, keys))
        for head in range(heads)
    ])  # fmt: skip
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True), np.float32)


def attention_data(
    tokens: list[str] = KITTEN, heads: int = 8, layers: int = 2, **changed: Any
) -> InsightData:
    """Full self-attention of one sequence."""
    length = len(tokens)
    drawn = []
    for layer in range(layers):
        one = {"sequence": 0, "heads": list(range(heads)), "query_start": 0, "queries": length,
               "key_start": 0, "keys": length, "datatype": "FP32",
               "weights": softmaxed(heads, length, length, layer)}  # fmt: skip
        drawn.append({"site": site_data(layer), "maps": [{**one, **changed}]})
    data: Any = {"model": "antecedent", "version": "1", "architecture": "transformer",
                 "precision": "fp32", "attention": {"layers": drawn},
                 "sequences": [{"length": length, "tokens": tokens}]}  # fmt: skip
    return InsightData(**data)


def influence_data(tokens: list[str] = KITTEN, rows: int = 0) -> InsightData:
    """Both measures of one sequence; far positions are below the floor. No rows: one answer."""
    length, count = len(tokens), rows or 1
    rng = np.random.default_rng(1)
    positions = list(range(length - rows, length)) if rows else []
    maps = []
    for measure, method, fade in (("occlusion", "replacement", 0.9),
                                  ("jacobian", "central_differences", 0.35)):  # fmt: skip
        steps = positions or [length - 1]
        distance = np.array([[at - key for key in range(length)] for at in steps])
        values = np.where(distance < 0, 0, fade ** np.abs(distance)) * rng.uniform(
            0.2, 1, (count, length)
        )
        if measure == "occlusion":
            values[:, 1] = np.where(distance[:, 1] >= 0, 2.5, 0)
        floors = np.full(count, 1e-4)
        known = np.where(values > floors[:, None], values, 0)
        shares = known / np.maximum(known.sum(1, keepdims=True), 1e-30)
        maps.append({"sequence": 0, "measure": measure, "method": method,
                     "output_positions": positions, "input_positions": list(range(length)),
                     "values": np.float32(values), "shares": np.float32(shares),
                     "floors": np.float32(floors)})  # fmt: skip
    distances = np.arange(length)
    value = np.where(distances < 12, 0.4**distances, np.nan)
    below = np.where(distances < 12, 0, length - distances)
    summary = [{"measure": one["measure"], "distances": distances.tolist(),
                "mean_share": 0.3 * 0.7**distances, "mean_value": value,
                "counts": length - distances, "below_floor": below,
                "sequential_steps": distances} for one in maps]  # fmt: skip
    data: Any = {"model": "antecedent", "version": "1", "architecture": "rnn", "precision": "int8",
                 "sequences": [{"length": length, "tokens": tokens}],
                 "influence": {"target": {"output": "logits", "predicted_class": True},
                               "maps": maps, "by_distance": summary, "predicted_seconds": 0.1,
                               "seconds": 0.12, "model_runs": 9}}  # fmt: skip
    return InsightData(**data)


def gate_data(tokens: list[str] = KITTEN) -> InsightData:
    """Gates of one LSTM layer."""
    length = len(tokens)
    rng = np.random.default_rng(2)
    gates = []
    for gate in ("input", "forget", "output", "cell", "forget_product"):
        units = 1 / (1 + np.exp(-rng.normal(1 if gate == "forget" else 0, 1, (length, 64))))
        if gate == "cell":
            units = 2 * units - 1
        elif gate == "forget_product":
            units = np.cumprod(1 - 0.3 * rng.random((length, 64)), 0)
        gates.append({"sequence": 0, "gate": gate, "mean": np.float32(units.mean(1)),
                      "quantiles": np.float32(np.quantile(units, (0.1, 0.5, 0.9), axis=1)),
                      "values": np.float32(units)})  # fmt: skip
    layer = {"layer": 0, "name": "/lstm/LSTM", "cell": "lstm", "direction": "forward", "units": 64,
             "recomputed_error": 3.1e-7, "gates": gates}  # fmt: skip
    data: Any = {"model": "antecedent", "version": "1", "architecture": "lstm", "precision": "fp32",
                 "sequences": [{"length": length, "tokens": tokens}],
                 "gates": {"quantiles": [0.1, 0.5, 0.9], "layers": [layer]}}  # fmt: skip
    return InsightData(**data)
