"""Looking inside models over gRPC: attention maps, influence and gates."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import Message

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.grpc.convert_insight import (
    read_attention_request,
    read_gate_request,
    read_influence_request,
    write_attention_header,
    write_attention_layer,
    write_gate_header,
    write_gate_layer,
    write_influence,
)
from seqlens.api.grpc.convert_sequences import write_answers
from seqlens.api.grpc.errors import Context, streaming_answer, unary, why_left
from seqlens.api.insight.requests import AttentionHeader
from seqlens.api.insight.splitting import split_gates, split_maps
from seqlens.api.message_bounds import check_answer
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.requests import deadline_in
from seqlens.api.served import Served
from seqlens.attention.questions import GateLayer
from seqlens.attention.selection import SiteMaps
from seqlens_wire.pb import sequences_pb2 as pb

Request = TypeVar(
    "Request", pb.ExtractAttentionRequest, pb.MeasureInfluenceRequest, pb.ReadGatesRequest
)
Plain = TypeVar("Plain")
Written = TypeVar("Written", bound=Message)


class GrpcInsight:
    """Methods carry the names of the RPCs; see ``seqlens_wire.services.add_servicer``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._limits = core.settings.limits
        # Beside what is counted a message holds names and the frame of itself.
        self._part_bytes = self._limits.max_message_bytes * 15 // 16

    @streaming_answer
    async def ExtractAttention(
        self, request: pb.ExtractAttentionRequest, context: Context
    ) -> AsyncGenerator[pb.ExtractAttentionResponse, None]:
        """Attention weights: a header, the maps of each site, then plain outputs if asked for."""
        with self._core.calls.watch("grpc", "attention", lambda: why_left(context)) as call:
            served = self._served(request, call)
            plain = await self._read_inside(read_attention_request, request, context, call)
            async with aclosing(self._core.insight.attention(served, plain, call)) as items:
                async for item in items:
                    if isinstance(item, AttentionHeader):
                        yield self._fitting(write_attention_header(served.model, request.id, item))
                    elif isinstance(item, SiteMaps):
                        for part in split_maps(item, self._part_bytes):
                            size = sum(one.weights.nbytes for one in part.maps)
                            written = await off_loop_if_large(size, write_attention_layer, part)
                            yield self._fitting(written)
                    else:
                        names = served.model.anatomy.output_names
                        answers = write_answers(served.model, item, names)
                        yield self._fitting(pb.ExtractAttentionResponse(answers=answers))

    @unary
    async def MeasureInfluence(
        self, request: pb.MeasureInfluenceRequest, context: Context
    ) -> pb.MeasureInfluenceResponse:
        """How much an answer depends on each position."""
        with self._core.calls.watch("grpc", "influence", lambda: why_left(context)) as call:
            served = self._served(request, call)
            plain = await self._read_inside(read_influence_request, request, context, call)
            # An answer in one message is refused before the work, and not after it.
            plain = replace(plain, message_bytes=self._limits.max_message_bytes)
            inside, answer = await self._core.insight.influence(served, plain, call)
            size = sum(one.values.nbytes for one in answer.maps)
            return self._fitting(
                await off_loop_if_large(
                    size, write_influence, served.model, request.id, inside, answer
                )
            )

    @streaming_answer
    async def ReadGates(
        self, request: pb.ReadGatesRequest, context: Context
    ) -> AsyncGenerator[pb.ReadGatesResponse, None]:
        """Gates at every step: a header, then each layer."""
        with self._core.calls.watch("grpc", "gates", lambda: why_left(context)) as call:
            served = self._served(request, call)
            plain = await self._read_inside(read_gate_request, request, context, call)
            async with aclosing(self._core.insight.gates(served, plain, call)) as items:
                async for item in items:
                    if isinstance(item, GateLayer):
                        for part in split_gates(item, self._part_bytes):
                            yield self._fitting(write_gate_layer(part))
                    else:
                        header = write_gate_header(served.model, request.id, item, plain.question)
                        yield self._fitting(header)

    def _served(self, request: Request, call: Call) -> Served:
        served = self._core.models.find(request.model_name, request.model_version)
        call.labels, call.id = served.model.metric_labels, request.id
        return served

    async def _read_inside(
        self,
        read: Callable[[Request, int, float | None], Plain],
        request: Request,
        context: Context,
        call: Call,
    ) -> Plain:
        most, deadline = self._limits.max_message_sequences, deadline_in(context.time_remaining())
        with call.decoding():
            return await off_loop_if_large(request.ByteSize(), read, request, most, deadline)

    def _fitting(self, message: Written) -> Written:
        check_answer(message, self._limits.max_message_bytes)
        return message
