"""A whole stream of sequences, whatever the protocol: what is read starts, what is done is told.

The edge reads messages, turns groups of outcomes into answers and says when those are sent.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from dataclasses import dataclass

from seqlens.api.batch import ReadSequences
from seqlens.api.calls import Call, Protocol
from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import Urgency, deadline_in
from seqlens.api.stream import Group, Pending, SequenceStream
from seqlens.api.stream_reading import read_until_drained
from seqlens.api.validation import check_outputs
from seqlens.errors import AnswerTooLarge, InvalidRequest, MessageTooLarge, SeqLensError
from seqlens.sequences import InputSequence, array_bytes

# Enough to keep several lanes in work, little enough that a client that leaves wastes nothing.
DEFAULT_WINDOW = 256


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the caller wants of a stream; the fields are those of ``seqlens.v1.StreamOptions``."""

    model: str
    version: str = ""
    outputs: Sequence[str] = ()
    priority: int = 0
    keep_order: bool = False
    window: int = 0
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """Sequences that came together.

    When ``read`` raises, each id is told that error.
    """

    ids: Sequence[str]
    read: ReadSequences


@dataclass(frozen=True, slots=True)
class Caller:
    """What the protocol knows of the one at the other end of a stream."""

    protocol: Protocol
    time_remaining: Callable[[], float | None]  # seconds until the caller's own deadline
    why_left: Callable[[], str]  # code of a caller that is gone


class Streaming:
    """One stream from its options to its last answer. Used on the event loop only.

    Raises ``SeqLensError`` for options that cannot be followed.
    """

    def __init__(self, core: Core, options: StreamOptions, caller: Caller) -> None:
        served = core.models.find(options.model, options.version)
        check_tensor_names("options.output_names", options.outputs)
        self.outputs = check_outputs(served.model.anatomy, options.outputs)
        if options.timeout_seconds is not None and not options.timeout_seconds > 0:
            raise InvalidRequest(
                "options.timeout_seconds", got=str(options.timeout_seconds), expected="more than 0"
            )
        limits = core.settings.limits
        self.window = min(options.window or DEFAULT_WINDOW, limits.max_stream_window)
        self._stream = SequenceStream(self.window, limits.max_message_bytes, options.keep_order)
        self._core, self._options, self._caller = core, options, caller
        self._labels = served.model.metric_labels

    async def groups(self, messages: AsyncIterable[StreamMessage]) -> AsyncGenerator[Group, None]:
        """Outcomes, as they are ready or in order, until the messages end and all are answered.

        Raises what reading the messages raises, and ``Draining`` when the server shuts down.
        Closing it takes back whatever still waits.
        """
        with self._core.calls.running():
            reader = asyncio.create_task(
                read_until_drained(self._read(messages), self._core.models.draining)
            )
            reader.add_done_callback(lambda _: self._stream.end())
            try:
                async for group in self._stream.groups():
                    yield group
                await reader
            except MessageTooLarge as error:
                self._core.calls.refused(self._labels, error)
                raise
            finally:
                reader.cancel()
                for pending in self._stream.close():
                    self._report(pending, self._caller.why_left(), None)

    def sent(self, group: Group) -> None:
        """Report a group whose answers go out now: each sequence counts as one request."""
        for pending, result in group.members:
            code = result.grpc_code if isinstance(result, SeqLensError) else "OK"
            self._report(pending, code, result)

    async def _read(self, messages: AsyncIterable[StreamMessage]) -> None:
        async for message in messages:
            for pending in await self._start(message):
                self._stream.add(pending)
            await self._stream.room()

    async def _start(self, message: StreamMessage) -> list[Pending]:
        """Start the sequences of a message; what is wrong with it is told to each of its ids.

        Waits while the model's waiting room is full: nothing more is read meanwhile.
        """
        arrived, options, model = time.perf_counter(), self._options, None
        try:
            served = self._core.models.find(options.model, options.version)
            model = served.model
            sequences = await message.read()
            urgency = Urgency(self._deadline(), options.priority)
            checked = await self._core.inference.check(model, sequences)
            started = await self._core.inference.start_when_room(served, checked, urgency)
        except Exception as error:
            told = answerable(error)
            return [Pending(one, model, told, arrived, len(one)) for one in message.ids or ("",)]
        return [
            Pending(one, model, begun, arrived, len(one) + _input_bytes(sequence))
            for one, begun, sequence in zip(message.ids, started, checked, strict=True)
        ]

    def _deadline(self) -> float | None:
        allowed = [self._caller.time_remaining(), self._options.timeout_seconds]
        return deadline_in(min((one for one in allowed if one is not None), default=None))

    def _report(self, pending: Pending, code: str, result: Outcome | None) -> None:
        calls = self._core.calls
        call = Call() if pending.model is None else Call(pending.model.metric_labels, pending.id)
        calls.note(call, [] if result is None else [result])
        seconds = time.perf_counter() - pending.arrived
        calls.report(call, self._caller.protocol, "stream", code, seconds)


def smaller(group: Group, error: AnswerTooLarge) -> list[Group]:
    """The halves of a group, or one whose single sequence has this error for its answer."""
    members = group.members
    if len(members) == 1:
        if isinstance(members[0][1], SeqLensError):
            raise error  # nothing smaller can be said
        return [Group(group.model, ((members[0][0], error),))]
    half = len(members) // 2
    return [Group(group.model, part) for part in (members[:half], members[half:])]


def _input_bytes(sequence: InputSequence | SeqLensError) -> int:
    return array_bytes(sequence.inputs) if isinstance(sequence, InputSequence) else 0
