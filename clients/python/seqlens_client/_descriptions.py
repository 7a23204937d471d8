"""What the server tells of its models, as plain values.

Each class has the fields of the message of the same name in ``seqlens/v1/sequences.proto``,
where their meaning is told at more length.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from google.protobuf.message import Message

from seqlens_wire.pb import open_inference_pb2, sequences_pb2


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model in the server's repository."""

    name: str
    version: str
    state: str  # UNKNOWN, READY, UNAVAILABLE, LOADING or UNLOADING
    reason: str  # why it is not READY


@dataclass(frozen=True, slots=True)
class InputAnatomy:
    """One input, in the model's own layout. Axes count from 0; None: no such axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # -1: any size
    role: str  # sequence, lengths, mask, positions, state or other
    batch_axis: int | None
    time_axis: int | None
    vocabulary_size: int | None  # token ids are below it
    mask_marks: str | None  # what a set entry of a mask marks: real or padding
    made_by_server: bool  # callers may leave it out
    added_by_server: bool  # not in the exported file
    state_output: str | None  # of a state: the output that continues it


@dataclass(frozen=True, slots=True)
class OutputAnatomy:
    """One output, in the model's own layout."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # -1: any size
    role: str  # per_sequence, per_step, state, attention or other
    batch_axis: int | None
    time_axes: tuple[int, ...]  # two for a map of attention weights


@dataclass(frozen=True, slots=True)
class RecurrentLayer:
    """One recurrent operator of the graph."""

    name: str
    cell: str  # rnn, lstm or gru
    direction: str  # forward, reverse or bidirectional
    input_size: int | None
    hidden_size: int | None
    layers: int  # stacked in this one operator
    initial_state: str  # zeros, input:NAME, constant or computed
    operator: str


@dataclass(frozen=True, slots=True)
class AttentionProof:
    """What was measured of an attention site when the model was loaded.

    Errors are largest absolute values; None: not measured.
    """

    proved: bool
    reason: str  # why it is not
    axes: tuple[str, ...]  # of the tensor: batch, head, query, key, constant
    row_sum_error: float | None  # of a query's weights, from 1
    padding_weight: float | None  # weight on keys that are padding
    repeat_error: float | None  # drawn twice
    output_error: float | None  # plain outputs, tapped against not tapped
    feedback_error: float | None  # outputs, when the drawn weights are put back in
    uniform_movement: float | None  # outputs, when uniform weights are put in: importance
    product_error: float | None  # fused kernels: weights times values, to their output
    padded_error: float | None  # weights, in a padded batch against alone


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One place where attention weights are computed."""

    name: str
    layer: int  # counted from 0 in order of execution
    kind: str  # self, cross, pooling, additive or unknown
    operator: str
    heads: int | None
    confidence: float  # from 0 to 1
    tappable: bool  # its weights can be drawn
    measured: bool  # the model's own tensor; else recomputed from what the operator reads
    proof: AttentionProof | None
    note: str  # what to know about the weights, or why they cannot be drawn


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Number of parameters in one part of the model."""

    part: str
    count: int


@dataclass(frozen=True, slots=True)
class Proof:
    """How far an answer moves when its sequence shares a batch, measured by the server.

    Errors are the largest absolute differences between alone and batched; None: not measured.
    """

    tolerance: float
    padded_error: float | None  # among sequences of other lengths
    equal_length_error: float | None  # among sequences of its own length
    repeat_error: float | None  # alone and alone again
    exported_error: float | None  # padded, before the server wired lengths in
    allowed_error: float  # what these errors may be at most: less than the tolerance
    checked_sequences: int
    checked_lengths: tuple[int, ...]
    seconds: float  # time that the measurement took
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes for this model. Lengths count tokens or time steps."""

    max_length: int | None
    max_length_source: str
    fixed_length: int | None  # the only length that the model runs
    max_waiting_tokens: int
    max_waiting_sequences: int
    max_batch_tokens: int
    max_batch_sequences: int
    longest_shared: int | None  # longer sequences run alone; None: no bound


@dataclass(frozen=True, slots=True)
class CostPoint:
    """Measured time of one run of the model."""

    length: int
    batch_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What was found in a model, how it is served, and the proof that batching is safe."""

    name: str
    version: str
    versions: tuple[str, ...]  # all that are served
    state: str
    backend: str
    platform: str
    device: str
    architecture: str  # rnn, lstm, gru, transformer, mixed or other
    evidence: tuple[str, ...]  # why this architecture
    sequential_depth: str  # steps that must follow each other: O(n), O(1) or unknown
    inputs: tuple[InputAnatomy, ...]
    outputs: tuple[OutputAnatomy, ...]
    recurrent_layers: tuple[RecurrentLayer, ...]
    attention_sites: tuple[AttentionSite, ...]
    parameters: tuple[ParameterGroup, ...]
    precision: str
    producer: str
    findings: tuple[str, ...]  # remarks for people
    strategy: str  # by_length, equal_length, alone or whole
    strategy_reason: str
    proof: Proof | None
    limits: Limits | None
    costs: tuple[CostPoint, ...]
    labels: tuple[str, ...]  # of the classes, in order; empty: the repository has none
    has_tokenizer: bool  # texts are taken

    @property
    def parameter_count(self) -> int:
        """All parameters of the model."""
        return sum(group.count for group in self.parameters)


T = TypeVar("T")
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        InputAnatomy,
        OutputAnatomy,
        RecurrentLayer,
        AttentionProof,
        AttentionSite,
        ParameterGroup,
        Proof,
        Limits,
        CostPoint,
    )
}


def read_description(message: sequences_pb2.DescribeModelResponse) -> ModelDescription:
    """The description in a message."""
    return _read(message, ModelDescription)


def read_index(message: open_inference_pb2.RepositoryIndexResponse) -> list[ModelStatus]:
    """The models in a message."""
    return [_read(model, ModelStatus) for model in message.models]


def read_site(message: sequences_pb2.AttentionSite) -> AttentionSite:
    """The attention site in a message."""
    return _read(message, AttentionSite)


def _read(message: Message, kind: type[T]) -> T:
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: _read_field(message, name) for name in names})


def _read_field(message: Message, name: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.is_repeated:
        return tuple(_read_value(entry) for entry in value)
    if field.has_presence and not message.HasField(name):
        return None
    return _read_value(value)


def _read_value(value: Any) -> Any:
    if isinstance(value, Message):
        return _read(value, _KINDS[value.DESCRIPTOR.name])
    return value
