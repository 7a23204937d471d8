"""What the edges hand to ``Inference`` and get back: plain values without a wire format.

All are made for every request, so they are cheap ``msgspec.Struct``; see ``seqlens.sequences``.
"""

import time
from dataclasses import dataclass

from msgspec import Struct

from seqlens.sequences import Array
from seqlens.settings import SchedulerSettings


class NamedTensor(Struct, frozen=True):
    """A tensor as the caller sent it, or as it is answered: name, datatype as on the wire, data."""

    name: str
    datatype: str
    array: Array


class Urgency(Struct, frozen=True):
    """How long a caller waits and how its work ranks.

    ``deadline`` is on the monotonic clock, in seconds; None waits as long as it takes.
    ``priority`` 0 is the default, 1 the highest, larger numbers come later.
    """

    deadline: float | None = None
    priority: int = 0

    def in_force(self, scheduler: SchedulerSettings) -> "Urgency":
        """This, and what a model's settings give to callers that ask for nothing."""
        deadline = self.deadline
        if deadline is None and scheduler.default_timeout_seconds:
            deadline = deadline_in(scheduler.default_timeout_seconds)
        return Urgency(deadline, self.priority or scheduler.default_priority)


def deadline_in(seconds: float | None) -> float | None:
    """A time allowed from now on as a point on the monotonic clock."""
    return None if seconds is None else time.monotonic() + seconds


class SharedPlace(Struct, frozen=True):
    """Part of a region of shared memory that the caller has registered, in bytes."""

    region: str
    offset: int
    byte_size: int


class RequestedOutput(Struct, frozen=True):
    """An output to answer with, and in which form."""

    name: str
    classes: int = 0  # the best so many classes as "value:index:label"; 0: the whole tensor
    place: SharedPlace | None = None  # where its bytes go; None: into the answer


class InferRequest(Struct, frozen=True):
    """One request of the Open Inference Protocol: whole tensors, padding and all."""

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()  # empty: all
    id: str = ""
    urgency: Urgency = Urgency()
    sequence_id: int | str = 0  # 0 and "" stand for none


@dataclass(slots=True)
class Timings:
    """Where the time of a request went, in seconds: of several sequences, that of the slowest.

    Each part began when the one before it had ended.
    """

    decode_seconds: float = 0.0
    queue_seconds: float = 0.0
    build_seconds: float = 0.0
    compute_seconds: float = 0.0
    encode_seconds: float = 0.0


class AnsweredOutput(Struct, frozen=True):
    """A tensor of an answer, and where the caller wants its bytes."""

    tensor: NamedTensor
    place: SharedPlace | None = None  # None: in the answer


class InferResponse(Struct, frozen=True):
    """The answer to an ``InferRequest``: whole tensors in the caller's order and shape."""

    model: str
    version: str
    id: str
    outputs: tuple[AnsweredOutput, ...]


class SequenceRequest(Struct, frozen=True):
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


class Rows(Struct, frozen=True):
    """What ``split`` made of a request and ``join`` needs to undo it."""

    time: int | None  # positions in the caller's tensors, padding included; None without time axis
    lengths: tuple[int, ...]  # real positions of each row
