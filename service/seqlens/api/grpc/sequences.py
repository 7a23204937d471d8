"""Our own service over gRPC: ``seqlens.v1.SequenceService``."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial

from seqlens.api.batch import BatchRequest, answer_batch
from seqlens.api.describe_sequences import describe_model
from seqlens.api.grpc.convert_sequences import read_sequences, write_answers
from seqlens.api.grpc.errors import Context, streaming, unary, why_left
from seqlens.api.grpc.insight import GrpcInsight
from seqlens.api.message_bounds import check_answer, check_count
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.requests import SequenceRequest, Urgency, deadline_in
from seqlens.api.stream import Group
from seqlens.api.streaming import Caller, Streaming, StreamMessage, StreamOptions, smaller
from seqlens.errors import AnswerTooLarge, InvalidRequest
from seqlens_wire.pb import sequences_pb2 as pb


class GrpcSequenceService(GrpcInsight):
    """Methods carry the names of the RPCs; see ``seqlens_wire.services.add_servicer``."""

    @unary
    async def ProcessBatch(
        self, request: pb.ProcessBatchRequest, context: Context
    ) -> pb.ProcessBatchResponse:
        """Answer many ragged sequences or texts of one message, each with its answer or error."""
        with self._core.calls.watch("grpc", "batch", lambda: why_left(context)) as call:
            urgency = Urgency(deadline_in(context.time_remaining()), request.priority)
            batch = await answer_batch(
                self._core,
                call,
                BatchRequest(
                    request.model_name, request.model_version, request.output_names, urgency
                ),
                lambda: self._plain(request.sequences),
            )
            with call.encoding():
                answer = pb.ProcessBatchResponse(
                    model_name=batch.model.name,
                    model_version=batch.model.version,
                    id=request.id,
                    answers=write_answers(batch.model, batch.outcomes, batch.outputs),
                )
                check_answer(answer, self._limits.max_message_bytes)
                return answer

    @streaming
    async def ProcessStream(
        self, requests: AsyncIterator[pb.ProcessStreamRequest], context: Context
    ) -> AsyncGenerator[pb.ProcessStreamResponse, None]:
        """Answer sequences as they come, as ready or in order, within a window."""
        options = await _read_options(requests)
        caller = Caller("grpc", context.time_remaining, lambda: why_left(context))
        stream = Streaming(self._core, options, caller)
        async with aclosing(stream.groups(self._messages(requests))) as groups:
            async for group in groups:
                for response in self._respond(stream, group):
                    yield response

    @unary
    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: Context
    ) -> pb.DescribeModelResponse:
        """What was found in a model, how it is served, the proof, limits, and cost by length."""
        models = self._core.models
        model = models.repository.get(request.model_name, request.model_version)
        return describe_model(model, models.versions(model.name))

    async def _messages(
        self, requests: AsyncIterator[pb.ProcessStreamRequest]
    ) -> AsyncIterator[StreamMessage]:
        async for message in requests:
            ids: Sequence[str] = message.sequences.ids
            # Too many to be told anything each: this ends the stream.
            check_count("sequences.ids", len(ids), self._limits.max_message_sequences)
            yield StreamMessage(ids, partial(self._read, message))

    async def _read(self, message: pb.ProcessStreamRequest) -> list[SequenceRequest]:
        kind = message.WhichOneof("message")
        if kind != "sequences":
            raise InvalidRequest("message", got=kind or "nothing", expected="sequences")
        ids, plain = message.sequences.ids, await self._plain(message.sequences.sequences)
        if len(ids) != len(plain):
            raise InvalidRequest(
                "sequences.ids",
                got=f"{len(ids)} ids",
                expected=f"{len(plain)}, one for each sequence",
            )
        return plain

    async def _plain(self, sequences: pb.Sequences) -> list[SequenceRequest]:
        most = self._limits.max_message_sequences
        return await off_loop_if_large(sequences.ByteSize(), read_sequences, sequences, most)

    def _respond(self, stream: Streaming, group: Group) -> Iterator[pb.ProcessStreamResponse]:
        """The message of a group, or several where it does not fit into one."""
        response = _write_group(group, stream.outputs)
        try:
            check_answer(response, self._limits.max_message_bytes)
        except AnswerTooLarge as error:
            for part in smaller(group, error):
                yield from self._respond(stream, part)
            return
        stream.sent(group)
        yield response


def _write_group(group: Group, names: Sequence[str]) -> pb.ProcessStreamResponse:
    results = [result for _, result in group.members]
    response = pb.ProcessStreamResponse(ids=[pending.id for pending, _ in group.members])
    response.answers.CopyFrom(write_answers(group.model, results, names))
    if group.model is not None:
        response.model_version = group.model.version
    return response


async def _read_options(requests: AsyncIterator[pb.ProcessStreamRequest]) -> StreamOptions:
    first = await anext(requests, None)
    kind = None if first is None else first.WhichOneof("message")
    if first is None or kind != "options":
        raise InvalidRequest("message", got=kind or "nothing", expected="options, as the first")
    options = first.options
    return StreamOptions(
        options.model_name,
        options.model_version,
        options.output_names,
        options.priority,
        options.keep_order,
        options.window,
        options.timeout_seconds if options.HasField("timeout_seconds") else None,
    )
