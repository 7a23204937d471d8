"""What the edges hand to ``Inference`` and get back: plain values without a wire format."""

from dataclasses import dataclass

from seqlens.sequences import Array


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as the caller sent it, or as it is answered: name, datatype as on the wire, data."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class Urgency:
    """How long a caller waits and how its work ranks.

    ``deadline`` is on the monotonic clock, in seconds; None waits as long as it takes.
    ``priority`` 0 is the default, 1 the highest, larger numbers come later.
    """

    deadline: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request of the Open Inference Protocol: whole tensors, padding and all."""

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[str, ...] = ()  # empty: all
    id: str = ""
    urgency: Urgency = Urgency()


@dataclass(slots=True)
class Timings:
    """Where the time of a request went, in seconds: of several sequences, that of the slowest."""

    decode_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    encode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to an ``InferRequest``: whole tensors in the caller's order and shape."""

    model: str
    version: str
    id: str
    outputs: tuple[NamedTensor, ...]


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One ragged sequence: tensors without batch axis and padding, or a text for the tokenizer.

    The name of a tensor may be empty where the model has only one input that callers give.
    """

    inputs: tuple[NamedTensor, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """Which lengths a model takes, in positions."""

    longest: int
    only: int | None = None  # the one length that runs: frozen at export and not to be padded


@dataclass(frozen=True, slots=True)
class Rows:
    """What ``split`` made of a request and ``join`` needs to undo it."""

    time: int | None  # positions in the caller's tensors, padding included; None without time axis
    lengths: tuple[int, ...]  # real positions of each row
