"""Messages that look inside models to plain requests, and what is seen to messages."""

from collections.abc import Sequence

import numpy as np

from seqlens.api.describe_sites import describe_site
from seqlens.api.grpc.convert_sequences import read_sequences, write_error
from seqlens.api.insight.requests import (
    AttentionHeader,
    AttentionRequest,
    GateRequest,
    InfluenceRequest,
    InsideSequence,
)
from seqlens.api.insight.words import once, read_datatype, read_measures, read_reduction
from seqlens.api.message_bounds import check_tensor_names
from seqlens.attention.questions import (
    GateLayer,
    GateQuestion,
    InfluenceAnswer,
    InfluenceByDistance,
    InfluenceMap,
    InfluenceQuestion,
    Target,
)
from seqlens.attention.selection import AttentionSelection, MapMeasures, SequenceMap, SiteMaps, Span
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import Array
from seqlens_wire.pb import sequences_pb2 as pb


def read_attention_request(
    message: pb.ExtractAttentionRequest, most: int, deadline: float | None
) -> AttentionRequest:
    """Plain request of at most ``most`` sequences. Raises ``InvalidRequest``."""
    check_tensor_names("selection.sites", message.selection.sites)
    return AttentionRequest(
        sequences=tuple(read_sequences(message.sequences, most)),
        selection=_read_selection(message.selection),
        with_outputs=message.with_outputs,
        with_measures=message.with_measures,
        share_positions=once(message.share_positions),
        deadline=deadline,
    )


def _read_selection(message: pb.AttentionSelection) -> AttentionSelection:
    return AttentionSelection(
        sites=once(message.sites),
        layers=once(message.layers),
        heads=once(message.heads),
        queries=Span(
            message.query_start if message.HasField("query_start") else None,
            message.query_stop if message.HasField("query_stop") else None,
        ),
        keys=Span(
            message.key_start if message.HasField("key_start") else None,
            message.key_stop if message.HasField("key_stop") else None,
        ),
        last_query=message.last_query,
        top_k=message.top_k,
        reduce_heads=read_reduction(message.reduce_heads),
        rollout=message.rollout,
        datatype=read_datatype(message.datatype),
    )


def read_influence_request(
    message: pb.MeasureInfluenceRequest, most: int, deadline: float | None
) -> InfluenceRequest:
    """Plain request of at most ``most`` sequences. Raises ``InvalidRequest``."""
    check_tensor_names("target.output", [message.target.output])
    default, target = InfluenceQuestion(), message.target
    question = InfluenceQuestion(
        measures=read_measures(message.measures),
        target=Target(
            output=target.output,
            class_index=target.class_index if target.HasField("class_index") else None,
            predicted_class=target.predicted_class,
        ),
        output_positions=once(message.output_positions),
        input_positions=once(message.input_positions),
        replacements=message.replacements or default.replacements,
        replacement_tokens=once(message.replacement_tokens),
        directions=message.directions or default.directions,
        exact=message.exact,
        by_distance=message.by_distance,
    )
    return InfluenceRequest(tuple(read_sequences(message.sequences, most)), question, deadline)


def read_gate_request(
    message: pb.ReadGatesRequest, most: int, deadline: float | None
) -> GateRequest:
    """Plain request of at most ``most`` sequences. Raises ``InvalidRequest``."""
    question = GateQuestion(
        layers=once(message.layers),
        quantiles=tuple(message.quantiles) or GateQuestion().quantiles,
        full=message.full,
    )
    return GateRequest(tuple(read_sequences(message.sequences, most)), question, deadline)


def write_attention_header(
    model: LoadedModel, request_id: str, header: AttentionHeader
) -> pb.ExtractAttentionResponse:
    """First message of an answer."""
    return pb.ExtractAttentionResponse(
        header=pb.AttentionHeader(
            model_name=model.name,
            model_version=model.version,
            id=request_id,
            sequences=map(write_inside, header.sequences),
            sites=map(describe_site, header.sites),
            predicted_bytes=header.predicted_bytes,
        )
    )


def write_attention_layer(maps: SiteMaps) -> pb.ExtractAttentionResponse:
    """Message of the maps of a site, or of a part of them."""
    layer = pb.AttentionLayer(site=describe_site(maps.site), maps=map(_write_map, maps.maps))
    return pb.ExtractAttentionResponse(layer=layer)


def write_inside(one: InsideSequence) -> pb.InsideSequence:
    """What is told of one sequence."""
    error = None if one.error is None else write_error(one.error)
    return pb.InsideSequence(length=one.length, tokens=one.tokens, error=error)


def _write_map(one: SequenceMap) -> pb.AttentionMap:
    _, queries, keys = one.weights.shape
    positions = one.key_positions
    return pb.AttentionMap(
        sequence=one.sequence,
        heads=one.heads,
        query_start=one.query_start,
        queries=queries,
        key_start=one.key_start,
        keys=keys,
        datatype=_DATATYPES[one.weights.dtype],
        weights=_bytes(one.weights),
        key_positions=b"" if positions is None else _bytes(positions.astype("<i4", copy=False)),
        measures=None if one.measures is None else _write_measures(one.measures),
    )


_DATATYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.uint8): "UINT8",
}


def _write_measures(measures: MapMeasures) -> pb.AttentionMeasures:
    return pb.AttentionMeasures(
        entropy=measures.entropy,
        mean_distance=measures.mean_distance,
        share=measures.share,
        largest_positions=measures.largest_positions.ravel(),
        similarity=measures.similarity.ravel(),
        patterns=measures.patterns,
    )


def write_influence(
    model: LoadedModel,
    request_id: str,
    inside: Sequence[InsideSequence],
    answer: InfluenceAnswer,
) -> pb.MeasureInfluenceResponse:
    """Message of all that was measured."""
    target = answer.target
    return pb.MeasureInfluenceResponse(
        model_name=model.name,
        model_version=model.version,
        id=request_id,
        sequences=map(write_inside, inside),
        target=pb.InfluenceTarget(
            output=target.output,
            class_index=target.class_index,
            predicted_class=target.predicted_class,
        ),
        maps=map(_write_influence_map, answer.maps),
        by_distance=map(_write_distances, answer.by_distance),
        predicted_seconds=answer.predicted.seconds,
        seconds=answer.taken.seconds,
        model_runs=answer.taken.runs,
    )


def _write_influence_map(one: InfluenceMap) -> pb.InfluenceMap:
    return pb.InfluenceMap(
        sequence=one.sequence,
        measure=one.measure,
        method=one.method,
        output_positions=one.output_positions,
        input_positions=one.input_positions,
        values=_bytes(one.values),
        shares=_bytes(one.shares),
        floors=_bytes(one.floors),
    )


def _write_distances(one: InfluenceByDistance) -> pb.InfluenceByDistance:
    return pb.InfluenceByDistance(
        measure=one.measure,
        distances=one.distances,
        mean_share=one.mean_share,
        mean_value=one.mean_value,
        counts=one.counts,
        below_floor=one.below_floor,
        sequential_steps=one.sequential_steps,
    )


def write_gate_header(
    model: LoadedModel, request_id: str, inside: Sequence[InsideSequence], question: GateQuestion
) -> pb.ReadGatesResponse:
    """First message of an answer."""
    return pb.ReadGatesResponse(
        header=pb.GateHeader(
            model_name=model.name,
            model_version=model.version,
            id=request_id,
            sequences=map(write_inside, inside),
            quantiles=question.quantiles,
        )
    )


def write_gate_layer(layer: GateLayer) -> pb.ReadGatesResponse:
    """Message of the gates of one layer in one direction, or of a part of them."""
    readings = [
        pb.GateReading(
            sequence=one.sequence,
            gate=one.gate,
            mean=_bytes(one.mean),
            quantiles=_bytes(one.quantiles),
            values=b"" if one.values is None else _bytes(one.values),
        )
        for one in layer.readings
    ]
    return pb.ReadGatesResponse(
        layer=pb.GateLayer(
            layer=layer.layer,
            name=layer.name,
            cell=layer.cell,
            direction=layer.direction,
            units=layer.units,
            recomputed_error=layer.recomputed_error,
            gates=readings,
        )
    )


def _bytes(array: Array) -> bytes:
    """Little-endian, row-major, as all numbers of the protocol."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
