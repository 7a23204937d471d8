"""What was seen inside models as plain data with arrays, which are JSON once they are written."""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np

from seqlens.api.describe_sites import describe_site
from seqlens.api.insight.plain_data import (
    DistanceData,
    ErrorData,
    GateLayerData,
    GateReadingData,
    InfluenceData,
    InfluenceMapData,
    InsightData,
    LayerData,
    MapData,
    MeasuresData,
    SequenceData,
    SiteData,
    TargetData,
)
from seqlens.api.insight.requests import InsideSequence
from seqlens.api.outcomes import Outcome
from seqlens.api.rest.messages import plain
from seqlens.api.rest.sequence_answers import Json, write_error, write_outcome
from seqlens.attention.questions import (
    GateLayer,
    GateReading,
    InfluenceAnswer,
    InfluenceByDistance,
    InfluenceMap,
    Target,
)
from seqlens.attention.selection import MapMeasures, SequenceMap, SiteMaps
from seqlens.attention.sites import Site
from seqlens.errors import InvalidRequest
from seqlens.repository.loading import LoadedModel

_DATATYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.uint8): "UINT8",
}


def write_header(
    model: LoadedModel, request_id: str, inside: Sequence[InsideSequence]
) -> InsightData:
    """What all answers begin with."""
    return {
        "model": model.name,
        "version": model.version,
        "id": request_id,
        "architecture": model.anatomy.architecture.value,
        "precision": model.anatomy.precision,
        "sequences": [_write_sequence(one) for one in inside],
    }


def _write_sequence(one: InsideSequence) -> SequenceData:
    written: SequenceData = {"length": one.length, "tokens": list(one.tokens)}
    if one.error is not None:
        written["error"] = cast(ErrorData, write_error(one.error))
    return written


def write_site(site: Site) -> SiteData:
    """A site with its proof, as it is described over gRPC."""
    return cast(SiteData, plain(describe_site(site)))


def write_layer(maps: SiteMaps) -> LayerData:
    """The maps of a site, or of a part of them."""
    return {"site": write_site(maps.site), "maps": [_write_map(one) for one in maps.maps]}


def _write_map(one: SequenceMap) -> MapData:
    _, queries, keys = one.weights.shape
    written: MapData = {
        "sequence": one.sequence,
        "heads": list(one.heads),
        "query_start": one.query_start,
        "queries": queries,
        "key_start": one.key_start,
        "keys": keys,
        "datatype": _DATATYPES[one.weights.dtype],
        "weights": np.ascontiguousarray(one.weights),
    }
    if one.key_positions is not None:
        written["key_positions"] = np.ascontiguousarray(one.key_positions)
    if one.measures is not None:
        written["measures"] = _write_measures(one.measures)
    return written


def _write_measures(measures: MapMeasures) -> MeasuresData:
    written: MeasuresData = {
        "entropy": measures.entropy,
        "mean_distance": measures.mean_distance,
        "largest_positions": measures.largest_positions,
        "similarity": measures.similarity,
        "patterns": measures.patterns,
    }
    if measures.share is not None:
        written["share"] = measures.share
    return written


def write_influence(answer: InfluenceAnswer) -> InfluenceData:
    """All that was measured of influence."""
    return {
        "target": _write_target(answer.target),
        "maps": [_write_influence_map(one) for one in answer.maps],
        "by_distance": [_write_distances(one) for one in answer.by_distance],
        "predicted_seconds": answer.predicted.seconds,
        "seconds": answer.taken.seconds,
        "model_runs": answer.taken.runs,
    }


def _write_target(target: Target) -> TargetData:
    written: TargetData = {"output": target.output, "predicted_class": target.predicted_class}
    if target.class_index is not None:
        written["class_index"] = target.class_index
    return written


def _write_influence_map(one: InfluenceMap) -> InfluenceMapData:
    return {
        "sequence": one.sequence,
        "measure": one.measure,
        "method": one.method,
        "output_positions": list(one.output_positions),
        "input_positions": list(one.input_positions),
        "values": np.ascontiguousarray(one.values),
        "shares": np.ascontiguousarray(one.shares),
        "floors": np.ascontiguousarray(one.floors),
    }


def _write_distances(one: InfluenceByDistance) -> DistanceData:
    return {
        "measure": one.measure,
        "distances": list(one.distances),
        "mean_share": one.mean_share,
        "mean_value": one.mean_value,
        "counts": one.counts,
        "below_floor": one.below_floor,
        "sequential_steps": one.sequential_steps,
    }


def write_gates(layer: GateLayer) -> GateLayerData:
    """The gates of a layer in one direction, or a part of them."""
    return {
        "layer": layer.layer,
        "name": layer.name,
        "cell": layer.cell,
        "direction": layer.direction,
        "units": layer.units,
        "recomputed_error": layer.recomputed_error,
        "gates": [_write_reading(one) for one in layer.readings],
    }


def _write_reading(one: GateReading) -> GateReadingData:
    written: GateReadingData = {
        "sequence": one.sequence,
        "gate": one.gate,
        "mean": np.ascontiguousarray(one.mean),
        "quantiles": np.ascontiguousarray(one.quantiles),
    }
    if one.values is not None:
        written["values"] = np.ascontiguousarray(one.values)
    return written


def write_answers(model: LoadedModel, outcomes: Iterable[Outcome]) -> list[Json]:
    """The model's plain outputs, as they are answered elsewhere."""
    return [_write_answer(model, one) for one in outcomes]


def _write_answer(model: LoadedModel, outcome: Outcome) -> Json:
    try:
        return write_outcome(model, outcome, model.anatomy.output_names)
    except InvalidRequest as error:  # of outputs that have no form in JSON
        return {"error": write_error(error)}
