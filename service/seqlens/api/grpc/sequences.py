"""Our own service over gRPC: ``seqlens.v1.SequenceService``."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.describe_sequences import describe_model
from seqlens.api.failures import answerable
from seqlens.api.grpc.convert_sequences import read_sequences, write_answers
from seqlens.api.grpc.errors import Context, streaming, unary, why_left
from seqlens.api.inference import Outcome, off_loop_if_large, outcomes
from seqlens.api.message_bounds import check_answer, check_count, check_tensor_names
from seqlens.api.requests import SequenceRequest, Urgency, deadline_in
from seqlens.api.served import DRAINING
from seqlens.api.stream import Group, Pending, SequenceStream
from seqlens.api.validation import check_outputs
from seqlens.errors import (
    AnswerTooLarge,
    Draining,
    InvalidRequest,
    MessageTooLarge,
    SeqLensError,
)
from seqlens.sequences import InputSequence, SequenceAnswer, array_bytes
from seqlens_wire.pb import sequences_pb2 as pb

# Enough to keep several lanes in work, little enough that a client that leaves wastes nothing.
DEFAULT_WINDOW = 256


class GrpcSequenceService:
    """Methods carry the names of the RPCs; see ``seqlens_wire.services.add_servicer``."""

    def __init__(self, core: Core) -> None:
        self._inference = core.inference
        self._models = core.models
        self._calls = core.calls
        self._limits = core.settings.limits

    @unary
    async def ProcessBatch(
        self, request: pb.ProcessBatchRequest, context: Context
    ) -> pb.ProcessBatchResponse:
        """Answer many ragged sequences, each with its answer or its error."""
        with self._calls.watch("grpc", "batch", lambda: why_left(context)) as call:
            served = self._models.find(request.model_name, request.model_version)
            model, call.labels = served.model, served.model.metric_labels
            check_tensor_names("output_names", request.output_names)
            names = check_outputs(model.anatomy, request.output_names)
            with call.decoding():
                plain = await self._plain(request.sequences)
            urgency = Urgency(deadline_in(context.time_remaining()), request.priority)
            checked = await self._inference.check(model, plain)
            results = await outcomes(self._inference.start(served, checked, urgency))
            self._note(call, results)
            with call.encoding():
                answer = pb.ProcessBatchResponse(
                    model_name=model.name,
                    model_version=model.version,
                    id=request.id,
                    answers=write_answers(model, results, names),
                )
                check_answer(answer, self._limits.max_message_bytes)
                return answer

    @streaming
    async def ProcessStream(
        self, requests: AsyncIterator[pb.ProcessStreamRequest], context: Context
    ) -> AsyncGenerator[pb.ProcessStreamResponse, None]:
        """Answer sequences as they come, within a window."""
        with self._calls.running():
            options = await _read_options(requests)
            served = self._models.find(options.model_name, options.model_version)
            check_tensor_names("options.output_names", options.output_names)
            names = check_outputs(served.model.anatomy, options.output_names)
            most_bytes = self._limits.max_message_bytes
            stream = SequenceStream(self._window(options), most_bytes, options.keep_order)
            reading = self._read_until_drained(requests, options, stream, context)
            reader = asyncio.create_task(reading)
            reader.add_done_callback(lambda _: stream.end())
            try:
                async for group in stream.groups():
                    for response in self._respond(group, names):
                        yield response
                await reader
            except MessageTooLarge as error:
                self._calls.refused(served.model.metric_labels, error)
                raise
            finally:
                reader.cancel()
                for pending in stream.close():
                    self._report(pending, why_left(context), None)

    @unary
    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: Context
    ) -> pb.DescribeModelResponse:
        """What was found in a model, how it is served, and the proof."""
        model = self._models.repository.get(request.model_name, request.model_version)
        return describe_model(model, self._models.versions(model.name))

    def _window(self, options: pb.StreamOptions) -> int:
        return min(options.window or DEFAULT_WINDOW, self._limits.max_stream_window)

    async def _read_until_drained(
        self,
        requests: AsyncIterator[pb.ProcessStreamRequest],
        options: pb.StreamOptions,
        stream: SequenceStream,
        context: Context,
    ) -> None:
        """Read to the end of the stream; when the server shuts down, raise ``Draining``."""
        reader = asyncio.create_task(self._read(requests, options, stream, context))
        drained = asyncio.create_task(self._models.draining.wait())
        try:
            await asyncio.wait({reader, drained}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                raise Draining(DRAINING)
            await reader
        finally:
            reader.cancel()
            drained.cancel()

    async def _read(
        self,
        requests: AsyncIterator[pb.ProcessStreamRequest],
        options: pb.StreamOptions,
        stream: SequenceStream,
        context: Context,
    ) -> None:
        async for message in requests:
            for pending in await self._start(message, options, context):
                stream.add(pending)
            await stream.room()

    async def _start(
        self, message: pb.ProcessStreamRequest, options: pb.StreamOptions, context: Context
    ) -> list[Pending]:
        """Start the sequences of a message; what is wrong with it is told to each of its ids.

        Waits while the model's waiting room is full: nothing more is read meanwhile.
        """
        arrived = time.perf_counter()
        ids: Sequence[str] = message.sequences.ids
        # Too many to be told anything each: this ends the stream.
        check_count("sequences.ids", len(ids), self._limits.max_message_sequences)
        model = None
        try:
            if message.WhichOneof("message") != "sequences":
                raise InvalidRequest(
                    "message", got=message.WhichOneof("message") or "nothing", expected="sequences"
                )
            served = self._models.find(options.model_name, options.model_version)
            model = served.model
            plain = await self._plain(message.sequences.sequences)
            if len(ids) != len(plain):
                raise InvalidRequest(
                    "sequences.ids",
                    got=f"{len(ids)} ids",
                    expected=f"{len(plain)}, one for each sequence",
                )
            urgency = Urgency(_deadline(options, context), options.priority)
            checked = await self._inference.check(model, plain)
            started = await self._inference.start_when_room(served, checked, urgency)
        except Exception as error:
            told = answerable(error)
            return [Pending(one, model, told, arrived, len(one)) for one in ids or ("",)]
        return [
            Pending(one, model, begun, arrived, len(one) + _input_bytes(sequence))
            for one, begun, sequence in zip(ids, started, checked, strict=True)
        ]

    async def _plain(self, sequences: pb.Sequences) -> list[SequenceRequest]:
        most = self._limits.max_message_sequences
        return await off_loop_if_large(sequences.ByteSize(), read_sequences, sequences, most)

    def _respond(self, group: Group, names: Sequence[str]) -> Iterator[pb.ProcessStreamResponse]:
        """The message of a group, or several where it does not fit into one."""
        response = _write_group(group, names)
        try:
            check_answer(response, self._limits.max_message_bytes)
        except AnswerTooLarge as error:
            for part in _smaller(group, error):
                yield from self._respond(part, names)
            return
        for pending, result in group.members:
            code = result.grpc_code if isinstance(result, SeqLensError) else "OK"
            self._report(pending, code, result)
        yield response

    def _report(self, pending: Pending, code: str, result: Outcome | None) -> None:
        """Each sequence of a stream counts as one request."""
        call = Call() if pending.model is None else Call(pending.model.metric_labels)
        self._note(call, [] if result is None else [result])
        self._calls.report(call, "grpc", "stream", code, time.perf_counter() - pending.arrived)

    def _note(self, call: Call, results: Sequence[Outcome]) -> None:
        call.answered([one for one in results if isinstance(one, SequenceAnswer)])
        for one in results:
            if isinstance(one, SeqLensError):
                self._calls.refused(call.labels, one)


def _write_group(group: Group, names: Sequence[str]) -> pb.ProcessStreamResponse:
    results = [result for _, result in group.members]
    response = pb.ProcessStreamResponse(ids=[pending.id for pending, _ in group.members])
    response.answers.CopyFrom(write_answers(group.model, results, names))
    if group.model is not None:
        response.model_version = group.model.version
    return response


def _smaller(group: Group, error: AnswerTooLarge) -> list[Group]:
    """The halves of a group, or one whose single sequence has this error for its answer."""
    members = group.members
    if len(members) == 1:
        if isinstance(members[0][1], SeqLensError):
            raise error  # nothing smaller can be said
        return [Group(group.model, ((members[0][0], error),))]
    half = len(members) // 2
    return [Group(group.model, part) for part in (members[:half], members[half:])]


async def _read_options(requests: AsyncIterator[pb.ProcessStreamRequest]) -> pb.StreamOptions:
    first = await anext(requests, None)
    kind = None if first is None else first.WhichOneof("message")
    if first is None or kind != "options":
        raise InvalidRequest("message", got=kind or "nothing", expected="options, as the first")
    options = first.options
    if options.HasField("timeout_seconds") and not options.timeout_seconds > 0:
        raise InvalidRequest(
            "options.timeout_seconds", got=str(options.timeout_seconds), expected="more than 0"
        )
    return options


def _input_bytes(sequence: InputSequence | SeqLensError) -> int:
    return array_bytes(sequence.inputs) if isinstance(sequence, InputSequence) else 0


def _deadline(options: pb.StreamOptions, context: Context) -> float | None:
    allowed = [context.time_remaining()]
    if options.HasField("timeout_seconds"):
        allowed.append(options.timeout_seconds)
    return deadline_in(min((one for one in allowed if one is not None), default=None))
