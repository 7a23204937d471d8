"""What was seen inside a model as plain dictionaries: one form for JSON, npz, BertViz and HTML.

Names are those of the messages in ``seqlens/v1/sequences.proto``; where those hold bytes, arrays
with their shape stand here. The server makes these of its own values (``api.rest.insight_json``),
the command line of what came over gRPC. Keys marked ``NotRequired`` are left out where nothing is
known; a list that would be empty may be left out too.
"""

from typing import Any, NotRequired, TypedDict

from seqlens.sequences import Array


class ErrorData(TypedDict):
    """Why nothing is told of a sequence."""

    code: str
    message: str
    field: NotRequired[str]
    got: NotRequired[str]
    expected: NotRequired[str]
    retry_after_seconds: NotRequired[float]


class SequenceData(TypedDict):
    """One sequence asked about."""

    length: int
    tokens: list[str]  # texts of its positions; empty: no tokenizer
    error: NotRequired[ErrorData]


class ProofData(TypedDict):
    """What was measured of a site at load; errors that are left out were not measured."""

    proved: bool
    reason: str
    axes: list[str]
    row_sum_error: NotRequired[float]
    padding_weight: NotRequired[float]
    repeat_error: NotRequired[float]
    output_error: NotRequired[float]
    feedback_error: NotRequired[float]
    uniform_movement: NotRequired[float]
    product_error: NotRequired[float]
    padded_error: NotRequired[float]


class SiteData(TypedDict):
    """One attention site."""

    name: str
    layer: int
    kind: str
    operator: str
    heads: NotRequired[int]
    confidence: float
    tappable: bool
    measured: bool
    proof: ProofData
    note: str


class MeasuresData(TypedDict):
    """What the heads of a map do."""

    entropy: Array  # [heads]
    mean_distance: Array  # [heads]
    share: NotRequired[Array]  # [heads]
    largest_positions: Array  # [heads, queries]
    similarity: Array  # [heads, heads]
    patterns: float


class MapData(TypedDict):
    """Weights of one sequence at one site."""

    sequence: int
    heads: list[int]  # empty: they were reduced to one
    query_start: int
    queries: int
    key_start: int
    keys: int
    datatype: str
    weights: Array  # [heads, queries, keys]; of UINT8, weights times 255
    key_positions: NotRequired[Array]  # top_k only: int32 [heads, queries, keys]
    measures: NotRequired[MeasuresData]


class LayerData(TypedDict):
    """Maps of one site."""

    site: SiteData
    maps: list[MapData]


class AttentionData(TypedDict):
    """Attention maps, in order of execution."""

    sites: NotRequired[list[SiteData]]  # all that were chosen: a rollout goes through several
    predicted_bytes: NotRequired[int]  # of all weights
    layers: list[LayerData]  # a site whose maps came in parts may be here several times


class TargetData(TypedDict):
    """What of the model's answer was looked at."""

    output: str
    class_index: NotRequired[int]
    predicted_class: bool


class InfluenceMapData(TypedDict):
    """How much each row of the target depends on each position of one sequence."""

    sequence: int
    measure: str
    method: str
    output_positions: list[int]  # empty: one row, of the whole sequence
    input_positions: list[int]
    values: Array  # float32 [rows, columns]
    shares: Array  # float32 [rows, columns]; 0 where below the floor
    floors: Array  # float32 [rows]


class DistanceData(TypedDict):
    """Many maps of one measure, by distance from output to input position. All [distances]."""

    measure: str
    distances: list[int]
    mean_share: Array
    mean_value: Array  # NaN: none is above the floor
    counts: Array
    below_floor: Array
    sequential_steps: Array


class InfluenceData(TypedDict):
    """All that was measured of influence."""

    target: TargetData
    maps: list[InfluenceMapData]
    by_distance: list[DistanceData]
    predicted_seconds: float
    seconds: float
    model_runs: int


class GateReadingData(TypedDict):
    """One gate of one sequence."""

    sequence: int
    gate: str
    mean: Array  # float32 [steps]
    quantiles: Array  # float32 [quantiles, steps]
    values: NotRequired[Array]  # float32 [steps, units]


class GateLayerData(TypedDict):
    """The gates of one layer in one direction."""

    layer: int
    name: str
    cell: str
    direction: str
    units: int
    recomputed_error: float
    gates: list[GateReadingData]


class GatesData(TypedDict):
    """Gates of all layers."""

    quantiles: list[float]
    layers: list[GateLayerData]


class InsightData(TypedDict):
    """What was seen inside a model: of attention, influence and gates whatever was asked for."""

    model: str
    version: str
    id: NotRequired[str]
    architecture: NotRequired[str]
    precision: NotRequired[str]  # such as fp32; of a quantised model it is told beside the maps
    sequences: list[SequenceData]  # in the order of the request; maps refer to their places
    attention: NotRequired[AttentionData]
    influence: NotRequired[InfluenceData]
    gates: NotRequired[GatesData]
    answers: NotRequired[list[dict[str, Any]]]  # plain outputs, or an error, of each sequence
