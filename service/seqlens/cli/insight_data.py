"""What came over gRPC as plain dictionaries, for JSON and pages."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from seqlens.api.insight.plain_data import (
    GateLayerData,
    GatesData,
    InfluenceData,
    InsightData,
    LayerData,
    MapData,
    SequenceData,
)
from seqlens_client import (
    AttentionMap,
    AttentionSite,
    GateLayer,
    Gates,
    Influence,
    InsideSequence,
    ModelDescription,
    SeqLensError,
    SiteMap,
)


def attention_data(
    model: ModelDescription, outcomes: Sequence[AttentionMap | SeqLensError]
) -> InsightData:
    """Attention maps of all sequences."""
    sequences = [
        _failed(0, outcome) if isinstance(outcome, SeqLensError) else _told(outcome)
        for outcome in outcomes
    ]
    maps = [each for outcome in outcomes if isinstance(outcome, AttentionMap) for each in outcome]
    sites = {each.site.name: each.site for each in maps}
    layers = [
        LayerData(
            site=cast(Any, _site(site)),
            maps=[_map(each) for each in maps if each.site.name == name],
        )
        for name, site in sites.items()
    ]
    return _model(model, sequences) | {"attention": {"layers": layers}}


def influence_data(model: ModelDescription, found: Influence) -> InsightData:
    """All that was measured of influence."""
    influence = {
        "target": _known(asdict(found.target)),
        "maps": [_without(each, "tokens") for each in found.maps],
        "by_distance": [asdict(each) for each in found.by_distance],
        "predicted_seconds": found.predicted_seconds,
        "seconds": found.seconds,
        "model_runs": found.model_runs,
    }
    return _model(model, _inside(found.sequences)) | {"influence": cast(InfluenceData, influence)}


def gates_data(model: ModelDescription, found: Gates) -> InsightData:
    """Gates of all layers."""
    layers = [cast(GateLayerData, _gate_layer(each)) for each in found.layers]
    gates = GatesData(quantiles=list(found.quantiles), layers=layers)
    return _model(model, _inside(found.sequences)) | {"gates": gates}


def _model(model: ModelDescription, sequences: list[SequenceData]) -> InsightData:
    return {
        "model": model.name,
        "version": model.version,
        "architecture": model.architecture,
        "precision": model.precision,
        "sequences": sequences,
    }


def _inside(sequences: Sequence[InsideSequence]) -> list[SequenceData]:
    return [
        _told(each) if each.error is None else _failed(each.length, each.error)
        for each in sequences
    ]


def _told(sequence: AttentionMap | InsideSequence) -> SequenceData:
    return {"length": sequence.length, "tokens": list(sequence.tokens)}


def _failed(length: int, error: SeqLensError) -> SequenceData:
    return {
        "length": length,
        "tokens": [],
        "error": {"code": error.code, "message": error.message},
    }


def _site(site: AttentionSite) -> dict[str, Any]:
    proof = (
        {"proved": False, "reason": "", "axes": ()} if site.proof is None else asdict(site.proof)
    )
    return {**_known(asdict(site)), "proof": _known(proof)}


def _map(one: SiteMap) -> MapData:
    _, queries, keys = one.weights.shape
    data = {
        "sequence": one.sequence,
        "heads": list(one.heads),
        "query_start": one.query_start,
        "queries": queries,
        "key_start": one.key_start,
        "keys": keys,
        "datatype": "FP32",
        "weights": one.weights,
        "key_positions": one.key_positions,
        "measures": None if one.measures is None else _known(_fields(one.measures)),
    }
    return cast(MapData, _known(data))


def _gate_layer(layer: GateLayer) -> dict[str, Any]:
    gates = [_known(_fields(each)) for each in layer.gates]
    return {**_without(layer, "gates", "sequences"), "gates": gates}


def _fields(value: Any) -> dict[str, Any]:
    """Fields as they are: ``asdict`` would copy the arrays."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _without(value: Any, *names: str) -> dict[str, Any]:
    return {name: each for name, each in _fields(value).items() if name not in names}


def _known(mapping: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if value is not None}
