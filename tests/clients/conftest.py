"""A small server of the real services over real sockets, and one face for both clients.

The server is a synchronous one: with it no test has a second event loop beside its own.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from seqlens_client import (
    AsyncClient,
    Client,
    FileSummary,
    Gates,
    Influence,
    ModelDescription,
    ModelStatistics,
    ModelStatus,
    SiteMap,
)
from seqlens_wire.errors import ErrorDetails, to_metadata
from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.ragged import pack, unpack
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, add_servicer
from seqlens_wire.tensors import decode, encode

VERSION = "3"
UNKNOWN = ErrorDetails(field="model_name", got="nowhere", expected="echo, backwards, ...")
BUSY = ErrorDetails(retry_after_seconds=0.25)
BAD = pb.SequenceError(
    code="INVALID_ARGUMENT", message="token id -1", field="inputs.ids[0]", got="-1", expected="0..9"
)


@dataclass
class FakeModels:
    """Models that do to sequences what their names say."""

    calls: Counter[str] = field(default_factory=Counter)
    messages: list[int] = field(default_factory=list)  # sequences in each message of a stream
    options: pb.StreamOptions | None = None
    leaves_after: int | None = None  # messages of a stream
    draining: bool = False  # refuses every call
    cancelled: bool = False
    abandoned: list[Any] = field(default_factory=list)  # one entry for each call given up
    authorizations: list[str] = field(default_factory=list)  # of each call

    # --- inference.GRPCInferenceService

    def ServerReady(  # noqa: N802
        self, request: oip.ServerReadyRequest, context: grpc.ServicerContext
    ) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=True)

    def ModelReady(  # noqa: N802
        self, request: oip.ModelReadyRequest, context: grpc.ServicerContext
    ) -> oip.ModelReadyResponse:
        self._check_model(request.name, context)
        return oip.ModelReadyResponse(ready=request.name != "loading")

    def RepositoryIndex(  # noqa: N802
        self, request: oip.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> oip.RepositoryIndexResponse:
        response = oip.RepositoryIndexResponse()
        response.models.add(name="echo", version=VERSION, state="READY")
        response.models.add(name="loading", version="1", state="LOADING", reason="being loaded")
        return response

    def ModelInfer(  # noqa: N802
        self, request: oip.ModelInferRequest, context: grpc.ServicerContext
    ) -> oip.ModelInferResponse:
        self._check_model(request.model_name, context)
        response = oip.ModelInferResponse(model_name=request.model_name, model_version=VERSION)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            array = decode(raw, tensor.datatype, tensor.shape)
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            response.raw_output_contents.append(encode(array, tensor.datatype))
        return response

    # --- seqlens.v1.SequenceService

    def ProcessBatch(  # noqa: N802
        self, request: pb.ProcessBatchRequest, context: grpc.ServicerContext
    ) -> pb.ProcessBatchResponse:
        self._check_model(request.model_name, context)
        answers = answer(request.sequences)
        if request.model_name == "garbled":
            answers.outputs[0].values += b"\0"
        return pb.ProcessBatchResponse(
            model_name=request.model_name, model_version=VERSION, id=request.id, answers=answers
        )

    def ProcessStream(  # noqa: N802
        self, requests: Iterator[pb.ProcessStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ProcessStreamResponse]:
        self.options = next(requests).options
        self._check_model(self.options.model_name, context)
        context.add_callback(self._note_end(context))
        for request in requests:
            self.messages.append(len(request.sequences.ids))
            if self.options.model_name == "hasty":
                return
            if self.options.model_name.startswith("forgetful"):
                continue
            responses = list(stream_answers(request.sequences))
            if self.options.model_name == "backwards" and not self.options.keep_order:
                responses.reverse()
            if self.options.model_name == "twice":
                responses *= 2
            yield from responses
            if self.leaves_after is not None and len(self.messages) >= self.leaves_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        if self.options.model_name == "forgetful-for-ever":
            self._wait_until_cancelled(context)

    def DescribeModel(  # noqa: N802
        self, request: pb.DescribeModelRequest, context: grpc.ServicerContext
    ) -> pb.DescribeModelResponse:
        self._check_model(request.model_name, context)
        response = pb.DescribeModelResponse(name=request.model_name, version=VERSION)
        response.inputs.add(name="ids", datatype="INT64", shape=[-1, -1], batch_axis=0, time_axis=1)
        response.limits.max_length = 512
        response.labels.extend(["no", "yes"])
        return response

    def ExtractAttention(  # noqa: N802
        self, request: pb.ExtractAttentionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExtractAttentionResponse]:
        """Three sites that look at the only position there is."""
        self._check_model(request.model_name, context)
        context.add_callback(self._note_end(context))
        header = pb.AttentionHeader(model_version=VERSION, sequences=[pb.InsideSequence(length=1)])
        yield pb.ExtractAttentionResponse(header=header)
        one = pb.AttentionMap(queries=1, keys=1, datatype="UINT8", weights=b"\xff")
        for layer in range(3):
            site = pb.AttentionSite(name=f"site {layer}", layer=layer)
            yield pb.ExtractAttentionResponse(layer=pb.AttentionLayer(site=site, maps=[one]))
        if request.model_name == "forgetful-for-ever":
            self._wait_until_cancelled(context)

    def _note_end(self, context: grpc.ServicerContext) -> Any:
        def note() -> None:
            self.cancelled = context.code() is None

        return note

    def _note_token(self, context: grpc.ServicerContext) -> None:
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization", ""))

    def _wait_until_cancelled(self, context: grpc.ServicerContext) -> None:
        ended = threading.Event()
        context.add_callback(ended.set)
        if ended.wait(10):
            self.abandoned.append(context.code())

    def _check_model(self, name: str, context: grpc.ServicerContext) -> None:
        self.calls[name] += 1
        self._note_token(context)
        if self.draining:
            context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        if name == "nowhere":
            context.set_trailing_metadata(to_metadata(UNKNOWN))
            context.abort(grpc.StatusCode.NOT_FOUND, "model 'nowhere' is not in the repository")
        if name == "busy":
            context.set_trailing_metadata(to_metadata(BUSY))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "waiting room is full")
        if name == "relieved" and self.calls[name] < 3:
            context.set_trailing_metadata(to_metadata(BUSY))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "waiting room is full")
        if name == "full":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of something")
        if name == "forbidding":
            context.set_trailing_metadata([("grpc-retry-pushback-ms", "-1")])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "never again")
        if name.startswith("stuck-once") and self.calls[name] == 1:
            self._wait_until_cancelled(context)
        if name == "stuck-once-then-down" and self.calls[name] == 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "failed to load")
        if name == "stuck":
            self._wait_until_cancelled(context)
        if name == "flaky" and self.calls[name] < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "being loaded")
        if name == "down":
            context.abort(grpc.StatusCode.UNAVAILABLE, "failed to load")
        if name == "crashing":
            context.abort(grpc.StatusCode.INTERNAL, "internal error 4f2a")
        if name == "slow":
            time.sleep(1)


def answer(sequences: pb.Sequences) -> pb.Answers:
    """Each sequence doubled, and its length; an error for those that begin below zero."""
    arrays = (
        [np.array(list(text.encode())) for text in sequences.texts]
        if sequences.texts
        else unpack(sequences.inputs[0], field="inputs")
    )
    bad = [array.size > 0 and array.dtype.kind in "if" and array.flat[0] < 0 for array in arrays]
    good = [array for array, wrong in zip(arrays, bad, strict=True) if not wrong]
    answers = pb.Answers()
    if good:
        datatype = sequences.inputs[0].datatype if sequences.inputs else "INT64"
        answers.outputs.append(pack("doubled", datatype, [array * 2 for array in good]))
        lengths = [np.array(len(array), np.float32) for array in good]
        answers.outputs.append(pack("length", "FP32", lengths))
    for array, wrong in zip(arrays, bad, strict=True):
        answers.results.add(
            length=len(array),
            padded_length=len(array) + 1,
            batch_size=len(arrays),
            queue_seconds=0.5,
            compute_seconds=0.25,
            error=BAD if wrong else None,
        )
    return answers


def stream_answers(message: pb.StreamSequences) -> Iterator[pb.ProcessStreamResponse]:
    """One response for each sequence of a message."""
    answers = answer(message.sequences)
    rows = {tensor.name: iter(unpack(tensor)) for tensor in answers.outputs}
    datatypes = {tensor.name: tensor.datatype for tensor in answers.outputs}
    for sequence_id, result in zip(message.ids, answers.results, strict=True):
        one = pb.Answers(results=[result])
        if not result.HasField("error"):
            one.outputs.extend(pack(n, datatypes[n], [next(rows[n])]) for n in rows)
        yield pb.ProcessStreamResponse(ids=[sequence_id], answers=one, model_version=VERSION)


def write_lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass
class FakeServer:
    address: str
    models: FakeModels


@contextmanager
def running_fake(credentials: grpc.ServerCredentials | None = None) -> Iterator[FakeServer]:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    models = FakeModels()
    add_servicer(server, OPEN_INFERENCE, models)
    add_servicer(server, SEQUENCES, models)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield FakeServer(f"127.0.0.1:{port}", models)
    server.stop(None).wait()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with running_fake() as server:
        yield server


@pytest.fixture
def another_fake() -> Iterator[FakeServer]:
    with running_fake() as server:
        yield server


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come true within five seconds")


class SyncFace:
    """``Client`` with the methods of ``AsyncFace``."""

    def __init__(self, address: str, **settings: Any) -> None:
        self.client = Client(address, **settings)

    async def infer(self, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.infer, *arguments, **options)

    async def infer_tensors(self, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.infer_tensors, *arguments, **options)

    async def stream(self, *arguments: Any, **options: Any) -> list[Any]:
        return await asyncio.to_thread(lambda: list(self.client.stream(*arguments, **options)))

    async def first_of_stream(self, *arguments: Any, **options: Any) -> Any:
        def first() -> Any:
            stream = self.client.stream(*arguments, **options)
            result = next(stream)
            stream.close()
            return result

        return await asyncio.to_thread(first)

    async def attention(self, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self.client.attention, *arguments, **options)

    async def stream_attention(self, *arguments: Any, **options: Any) -> list[SiteMap]:
        stream = self.client.stream_attention
        return await asyncio.to_thread(lambda: list(stream(*arguments, **options)))

    async def influence(self, *arguments: Any, **options: Any) -> Influence:
        return await asyncio.to_thread(self.client.influence, *arguments, **options)

    async def gates(self, *arguments: Any, **options: Any) -> Gates:
        return await asyncio.to_thread(self.client.gates, *arguments, **options)

    async def first_site_map(self, *arguments: Any, **options: Any) -> SiteMap:
        def first() -> SiteMap:
            with closing(self.client.stream_attention(*arguments, **options)) as maps:
                return next(maps)

        return await asyncio.to_thread(first)

    async def models(self) -> list[ModelStatus]:
        return await asyncio.to_thread(self.client.models)

    async def describe(self, *arguments: Any, **options: Any) -> ModelDescription:
        return await asyncio.to_thread(self.client.describe, *arguments, **options)

    async def ready(self, *arguments: Any, **options: Any) -> bool:
        return await asyncio.to_thread(self.client.ready, *arguments, **options)

    async def process_file(self, *arguments: Any, **options: Any) -> FileSummary:
        return await asyncio.to_thread(self.client.process_file, *arguments, **options)

    async def load(self, *arguments: Any, **options: Any) -> None:
        await asyncio.to_thread(self.client.load, *arguments, **options)

    async def unload(self, *arguments: Any, **options: Any) -> None:
        await asyncio.to_thread(self.client.unload, *arguments, **options)

    async def statistics(self, *arguments: Any, **options: Any) -> list[ModelStatistics]:
        return await asyncio.to_thread(self.client.statistics, *arguments, **options)

    async def close(self) -> None:
        self.client.close()


class AsyncFace(AsyncClient):
    """``AsyncClient`` whose streams are collected."""

    async def stream(self, *arguments: Any, **options: Any) -> list[Any]:
        return [result async for result in super().stream(*arguments, **options)]

    async def first_of_stream(self, *arguments: Any, **options: Any) -> Any:
        stream = super().stream(*arguments, **options)
        result = await anext(stream)
        await stream.aclose()
        return result

    async def stream_attention(self, *arguments: Any, **options: Any) -> list[SiteMap]:
        return [each async for each in super().stream_attention(*arguments, **options)]

    async def first_site_map(self, *arguments: Any, **options: Any) -> SiteMap:
        async with aclosing(super().stream_attention(*arguments, **options)) as maps:
            return await anext(maps)


Face = SyncFace | AsyncFace


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: pytest.FixtureRequest) -> type[Face]:
    return request.param


@pytest.fixture
async def client(face: type[Face], fake: FakeServer) -> AsyncIterator[Face]:
    client = face(fake.address)
    yield client
    await client.close()
