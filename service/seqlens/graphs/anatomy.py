"""What was found in an exported model: the vocabulary that every other part speaks.

Plain frozen values without behaviour beyond simple look-ups, so that they can be printed,
kept in a cache and sent over the wire as they are.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

Cell = Literal["rnn", "lstm", "gru"]
Direction = Literal["forward", "reverse", "bidirectional"]
AttentionKind = Literal["self", "cross", "pooling", "additive", "unknown"]
Marks = Literal["real", "padding"]  # what a set entry of a mask marks

WIRED_FROM = "sequence_lengths"  # key in ModelAnatomy.details: the input that they come from


class InputRole(StrEnum):
    """What an input means to the model."""

    SEQUENCE = "sequence"  # token ids or features, one entry a position
    LENGTHS = "lengths"  # int [batch]: real positions of each row
    MASK = "mask"  # [batch, time]: which positions are real
    POSITIONS = "positions"  # int [batch, time]: 0, 1, 2, ...
    STATE = "state"  # recurrent state carried from call to call
    OTHER = "other"


# Asked of every input in every batch: looked up once.
_MADE_BY_SERVER = (InputRole.LENGTHS, InputRole.MASK, InputRole.POSITIONS)


class OutputRole(StrEnum):
    """What an output is to the caller."""

    PER_SEQUENCE = "per_sequence"
    PER_STEP = "per_step"
    STATE = "state"
    ATTENTION = "attention"
    OTHER = "other"


class Architecture(StrEnum):
    """The closed set of architectures; also the values of the metrics' label."""

    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"
    TRANSFORMER = "transformer"
    MIXED = "mixed"
    OTHER = "other"


@dataclass(frozen=True)  # no slots: what every sequence asks for is computed once and kept
class InputAnatomy:
    """One input. Axes count from 0; None means that the input has no such axis."""

    name: str
    datatype: str  # as on the wire: INT64, FP32, ...
    shape: tuple[int, ...]  # -1: any size
    role: InputRole
    batch_axis: int | None = None
    time_axis: int | None = None
    vocabulary_size: int | None = None  # token ids must be below it
    mask_marks: Marks | None = None
    added_by_server: bool = False  # not in the exported file: the server wired it in
    state_output: str | None = None  # STATE only: the output that continues it
    trial_value: int | None = None  # OTHER only: a value that runs, for trials (a sample rate)
    default: int | None = None  # SEQUENCE only: stands at every position where it is left out

    @cached_property
    def made_by_server(self) -> bool:
        """Whether the server can make this input itself when the caller leaves it out."""
        return self.role in _MADE_BY_SERVER

    @cached_property
    def optional(self) -> bool:
        """Whether callers may leave it out: made by the server, a state, or with a default."""
        sizes = [size for axis, size in enumerate(self.shape) if axis != self.batch_axis]
        from_zero = self.role is InputRole.STATE and min(sizes, default=1) >= 0
        return self.made_by_server or self.default is not None or from_zero

    @cached_property
    def sequence_shape(self) -> tuple[int, ...]:
        """Shape for one sequence: no batch axis, time first; -1: any size."""
        axes = (self.batch_axis, self.time_axis)
        rest = [size for axis, size in enumerate(self.shape) if axis not in axes]
        return (-1, *rest) if self.time_axis is not None else tuple(rest)

    @cached_property
    def open_shape(self) -> tuple[int, ...]:
        """The shape with any size on the batch and the time axis."""
        axes = (self.batch_axis, self.time_axis)
        return tuple(-1 if axis in axes else size for axis, size in enumerate(self.shape))


@dataclass(frozen=True, slots=True)
class OutputAnatomy:
    """One output. ``time_axes`` has two entries for a map of attention weights."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # -1: any size
    role: OutputRole
    batch_axis: int | None = None
    time_axes: tuple[int, ...] = ()

    @property
    def time_axis(self) -> int | None:
        """The first time axis, None for outputs without one."""
        return self.time_axes[0] if self.time_axes else None


@dataclass(frozen=True, slots=True)
class RecurrentLayer:
    """One recurrent operator of the graph (an operator may hold several stacked layers)."""

    name: str
    cell: Cell
    direction: Direction
    input_size: int | None
    hidden_size: int | None
    layers: int = 1
    initial_state: str = "zeros"  # "zeros", "input:NAME", "constant" or "computed"
    operator: str = ""  # e.g. "LSTM", "com.microsoft.DynamicQuantizeLSTM", "aten::lstm", "unrolled"


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One place where attention weights are computed."""

    name: str
    layer: int  # counted from 0 in order of execution
    kind: AttentionKind
    operator: str  # "Softmax", "com.microsoft.Attention", "aten::scaled_dot_product_attention", ...
    heads: int | None = None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Tap:
    """An attention site whose weights can be had."""

    site: AttentionSite
    measured: bool  # the model's own tensor; False: recomputed from what a fused kernel reads
    replaceable: bool  # other weights can be put in its place
    note: str = ""  # what to know about the weights, such as "before rounding to int8"


@dataclass(frozen=True, slots=True)
class Untapped:
    """An attention site whose weights cannot be had."""

    site: AttentionSite
    reason: str


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Number of parameters in one part: embedding, recurrent, attention, dense, normalization..."""

    part: str
    count: int


@dataclass(frozen=True)  # no slots: what every request asks for is computed once and kept
class ModelAnatomy:
    """Everything found in one exported model."""

    inputs: tuple[InputAnatomy, ...]
    outputs: tuple[OutputAnatomy, ...]
    architecture: Architecture
    evidence: tuple[str, ...]  # why this architecture
    sequential_depth: Literal["O(n)", "O(1)", "unknown"]
    recurrent_layers: tuple[RecurrentLayer, ...] = ()
    attention_sites: tuple[AttentionSite, ...] = ()
    parameters: tuple[ParameterGroup, ...] = ()
    fixed_length: int | None = None  # the only length that runs (frozen at export)
    max_length: int | None = None  # longest length that runs (position table), None: no limit found
    fixed_batch: int | None = None  # the only batch size that runs (frozen at export)
    findings: tuple[str, ...] = ()  # remarks for people: what was repaired, refused or looks odd
    producer: str = ""  # exporter and opset, as far as the file tells
    precision: str = "fp32"
    details: dict[str, str] = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether there are sequence inputs, and all of them have a batch axis."""
        sequences = self.sequence_inputs
        return bool(sequences) and all(i.batch_axis is not None for i in sequences)

    @cached_property
    def sequence_inputs(self) -> tuple[InputAnatomy, ...]:
        """The inputs that carry the sequences themselves."""
        return tuple(i for i in self.inputs if i.role is InputRole.SEQUENCE)

    @property
    def has_time(self) -> bool:
        """Whether the model takes sequences of varying length."""
        return any(i.time_axis is not None for i in self.sequence_inputs)

    @property
    def rewritten(self) -> bool:
        """Whether the served graph is not the exported one: lengths were wired into it."""
        return WIRED_FROM in self.details

    @property
    def parameter_count(self) -> int:
        """All parameters of the model."""
        return sum(group.count for group in self.parameters)

    def input(self, name: str) -> InputAnatomy | None:
        """The input of this name."""
        return self._inputs_by_name.get(name)

    @cached_property
    def input_names(self) -> frozenset[str]:
        """Names of all inputs."""
        return frozenset(self._inputs_by_name)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return tuple(one.name for one in self.outputs)

    @cached_property
    def mark_names(self) -> frozenset[str]:
        """Names of the inputs by which callers tell padding."""
        return frozenset(one.name for one in self.inputs if one.made_by_server)

    @cached_property
    def needed_names(self) -> frozenset[str]:
        """Names of the inputs that callers must give."""
        return frozenset(one.name for one in self.inputs if not one.optional)

    @cached_property
    def default_inputs(self) -> tuple[InputAnatomy, ...]:
        """The sequence inputs that have a default."""
        return tuple(one for one in self.sequence_inputs if one.default is not None)

    @cached_property
    def _inputs_by_name(self) -> dict[str, InputAnatomy]:
        return {one.name: one for one in self.inputs}

    def output(self, name: str) -> OutputAnatomy | None:
        """The output of this name."""
        return next((o for o in self.outputs if o.name == name), None)


@dataclass(frozen=True, slots=True)
class InputOverride:
    """What ``model.yaml`` says of an input; None leaves what was found."""

    role: InputRole | None = None
    datatype: str | None = None
    shape: tuple[int, ...] | None = None
    batch_axis: int | None = None
    time_axis: int | None = None
    vocabulary_size: int | None = None
    mask_marks: Marks | None = None
    default: int | None = None


@dataclass(frozen=True, slots=True)
class OutputOverride:
    """What ``model.yaml`` says of an output; None leaves what was found."""

    role: OutputRole | None = None
    batch_axis: int | None = None
    time_axis: int | None = None


@dataclass(frozen=True, slots=True)
class AnatomyOverrides:
    """What the user states about a model; it replaces what would have been found."""

    inputs: dict[str, InputOverride] = field(default_factory=dict)
    outputs: dict[str, OutputOverride] = field(default_factory=dict)
    architecture: Architecture | None = None
    max_length: int | None = None
