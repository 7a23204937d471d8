import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import tritonclient.grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from seqlens_wire.errors import ErrorDetails, from_metadata, to_metadata
from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as sequences
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, add_servicer, reflection_pool

OVERLOADED = ErrorDetails(field="model", got="Übermaß", expected="less", retry_after_seconds=0.25)


class InferenceServicer:
    async def ServerLive(  # noqa: N802
        self, request: oip.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ModelReady(  # noqa: N802
        self, request: oip.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelReadyResponse:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", to_metadata(OVERLOADED))


class SequenceServicer:
    async def ProcessStream(  # noqa: N802
        self,
        requests: AsyncIterator[sequences.ProcessStreamRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[sequences.ProcessStreamResponse]:
        async for request in requests:
            yield sequences.ProcessStreamResponse(ids=request.sequences.ids)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_servicer(server, OPEN_INFERENCE, InferenceServicer())
    add_servicer(server, SEQUENCES, SequenceServicer())
    names = (OPEN_INFERENCE, SEQUENCES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    pool = reflection_pool(health_pb2.DESCRIPTOR)
    reflection.enable_server_reflection(names, server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_our_stub_reaches_the_standard_service(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await GRPCInferenceServiceStub(channel).ServerLive(oip.ServerLiveRequest())
    assert answer.live


async def test_tritonclient_reaches_the_standard_service(address: str) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()


async def test_methods_that_a_servicer_lacks_are_unimplemented(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GRPCInferenceServiceStub(channel).LogSettings(oip.LogSettingsRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_streams_go_both_ways(address: str) -> None:
    message = sequences.ProcessStreamRequest(sequences=sequences.StreamSequences(ids=["a", "b"]))
    async with grpc.aio.insecure_channel(address) as channel:
        call = SequenceServiceStub(channel).ProcessStream(iter([message, message]))
        assert [list(answer.ids) async for answer in call] == [["a", "b"], ["a", "b"]]


async def test_error_details_travel_in_trailing_metadata(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GRPCInferenceServiceStub(channel).ModelReady(oip.ModelReadyRequest())
    assert from_metadata(caught.value.trailing_metadata()) == OVERLOADED


async def test_reflection_describes_all_services_under_their_names_on_the_wire(
    address: str,
) -> None:
    def services_of(channel: grpc.Channel) -> set[str]:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        return {pool.FindServiceByName(name).full_name for name in database.get_services()}

    with grpc.insecure_channel(address) as channel:
        described = await asyncio.to_thread(services_of, channel)
    assert described >= {OPEN_INFERENCE, SEQUENCES, "grpc.health.v1.Health"}
