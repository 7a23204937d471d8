"""Answers about the inside of models as JSON has them: nested lists where others have arrays."""

from typing import Annotated, Any

import msgspec

# Lists of lists of numbers, as deep as the comment beside them says; NaN is null.
_Nested = list[Any]
_Site = Annotated[
    Any, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/AttentionSite"})
]
_Error = Annotated[
    Any, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/SequenceError"})
]
_Answer = Annotated[
    Any,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": "#/components/schemas/AnsweredSequence"},
                {"$ref": "#/components/schemas/FailedSequence"},
            ]
        }
    ),
]


class InsideSequence(msgspec.Struct):
    """What is told of one sequence; with ``error`` nothing was looked at."""

    length: int
    tokens: list[str]
    error: _Error | msgspec.UnsetType = msgspec.UNSET


class AttentionMeasures(msgspec.Struct):
    """What the heads of a map do; lists follow the order of its heads."""

    entropy: list[float]
    mean_distance: list[float]
    largest_positions: _Nested  # [heads, queries]
    similarity: _Nested  # [heads, heads]
    patterns: float
    share: list[float] | msgspec.UnsetType = msgspec.UNSET


class AttentionMap(msgspec.Struct):
    """Weights of one sequence at one site; without heads they were reduced to one."""

    sequence: int
    heads: list[int]
    query_start: int
    queries: int
    key_start: int
    keys: int
    datatype: str
    weights: _Nested  # [heads, queries, keys]
    key_positions: _Nested | msgspec.UnsetType = msgspec.UNSET  # [heads, queries, keys]
    measures: AttentionMeasures | msgspec.UnsetType = msgspec.UNSET


class AttentionLayer(msgspec.Struct):
    """Maps of one site."""

    site: _Site
    maps: list[AttentionMap]


class InsideAnswer(msgspec.Struct):
    """What all these answers begin with."""

    model: str
    version: str
    id: str
    architecture: str
    precision: str
    sequences: list[InsideSequence]


class AttentionAnswer(InsideAnswer):
    """Attention maps in order of execution, and plain outputs where they were asked for."""

    sites: list[_Site]
    predicted_bytes: int
    layers: list[AttentionLayer]
    answers: list[_Answer] | msgspec.UnsetType = msgspec.UNSET


class BertvizSequence(msgspec.Struct):
    """Arguments of BertViz' views for one sequence, or its error."""

    tokens: list[str] | msgspec.UnsetType = msgspec.UNSET
    attention: _Nested | msgspec.UnsetType = msgspec.UNSET  # by layer [1, heads, length, length]
    layers: list[int] | msgspec.UnsetType = msgspec.UNSET
    sites: list[str] | msgspec.UnsetType = msgspec.UNSET
    heads: list[int] | msgspec.UnsetType = msgspec.UNSET
    error: _Error | msgspec.UnsetType = msgspec.UNSET


class BertvizAnswer(msgspec.Struct):
    """What BertViz takes, by sequence."""

    model: str
    version: str
    sequences: list[BertvizSequence]


class InfluenceTarget(msgspec.Struct):
    """What of the model's answer was looked at."""

    output: str
    predicted_class: bool
    class_index: int | msgspec.UnsetType = msgspec.UNSET


class InfluenceMap(msgspec.Struct):
    """How much each row of the target depends on each position of one sequence."""

    sequence: int
    measure: str
    method: str
    output_positions: list[int]
    input_positions: list[int]
    values: _Nested  # [rows, columns]
    shares: _Nested  # [rows, columns]
    floors: list[float]  # [rows]


class InfluenceByDistance(msgspec.Struct):
    """Many maps of one measure, by distance; a mean value of null is not known."""

    measure: str
    distances: list[int]
    mean_share: list[float]
    mean_value: list[float | None]
    counts: list[int]
    below_floor: list[int]
    sequential_steps: list[int]


class InfluenceAnswer(InsideAnswer):
    """All that was measured."""

    target: InfluenceTarget
    maps: list[InfluenceMap]
    by_distance: list[InfluenceByDistance]
    predicted_seconds: float
    seconds: float
    model_runs: int


class GateReading(msgspec.Struct):
    """One gate of one sequence, by steps."""

    sequence: int
    gate: str
    mean: list[float]
    quantiles: _Nested  # [quantiles, steps]
    values: _Nested | msgspec.UnsetType = msgspec.UNSET  # [steps, units]


class GateLayer(msgspec.Struct):
    """Gates of one layer in one direction."""

    layer: int
    name: str
    cell: str
    direction: str
    units: int
    recomputed_error: float
    gates: list[GateReading]


class GatesAnswer(InsideAnswer):
    """Gates of all layers that were asked for."""

    quantiles: list[float]
    layers: list[GateLayer]
