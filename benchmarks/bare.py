"""The same wire without a server behind it: what gRPC and HTTP cost in Python at best.

Every handler reads its request into numpy arrays and answers four logits a sequence. Nothing is
checked, scheduled, counted or run. Prints ``ready rest=HOST:PORT grpc=HOST:PORT``.
"""

import asyncio
import contextlib
import socket
from typing import Any

import grpc.aio
import msgspec
import numpy as np
import orjson
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.ragged import pack, unpack
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, add_servicer

CLASSES = 4


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"[]")
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct):
    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(InferBody)
_numbers = msgspec.json.Decoder(list[int])


async def infer(request: Request) -> Response:
    body = await request.body()
    head = request.headers.get("inference-header-content-length")
    if head is None:
        tensor = _decoder.decode(body).inputs[0]
        tokens = np.array(_numbers.decode(tensor.data), np.int64).reshape(tensor.shape)
        return Response(_answer(_logits(len(tokens))), media_type="application/json")
    tensor = _decoder.decode(memoryview(body)[: int(head)]).inputs[0]
    tokens = np.frombuffer(body, np.int64, offset=int(head)).reshape(tensor.shape)
    data = _logits(len(tokens)).tobytes()
    text = _answer(None, len(data))
    headers = {"inference-header-content-length": str(len(text))}
    return Response(text + data, headers=headers, media_type="application/octet-stream")


def _answer(logits: np.ndarray | None, size: int = 0) -> bytes:
    output: dict[str, Any] = {"name": "logits", "datatype": "FP32", "shape": [1, CLASSES]}
    output |= {"parameters": {"binary_data_size": size}} if logits is None else {"data": logits}
    return orjson.dumps(
        {"model_name": "nothing", "model_version": "1", "id": "", "outputs": [output]},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _logits(rows: int) -> np.ndarray:
    return np.zeros((rows, CLASSES), np.float32)


class OpenInference:
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        tokens = np.frombuffer(request.raw_input_contents[0], np.int64)
        tokens = tokens.reshape(request.inputs[0].shape)
        answer = oip.ModelInferResponse(model_name="nothing", model_version="1", id=request.id)
        answer.outputs.add(name="logits", datatype="FP32", shape=[len(tokens), CLASSES])
        answer.raw_output_contents.append(_logits(len(tokens)).tobytes())
        return answer


class Sequences:
    async def ProcessBatch(self, request: Any, context: Any) -> Any:
        return pb.ProcessBatchResponse(
            model_name="nothing", model_version="1", answers=_answers(request.sequences)
        )

    async def ProcessStream(self, requests: Any, context: Any) -> Any:
        async for message in requests:
            if message.WhichOneof("message") == "sequences":
                answers = _answers(message.sequences.sequences)
                yield pb.ProcessStreamResponse(ids=message.sequences.ids, answers=answers)


def _answers(sequences: Any) -> Any:
    rows = unpack(sequences.inputs[0])
    logits = list(_logits(len(rows)))
    results = [pb.SequenceResult(length=len(row), batch_size=1) for row in rows]
    return pb.Answers(results=results, outputs=[pack("logits", "FP32", logits)])


async def serve() -> None:
    grpc_server = grpc.aio.server()
    add_servicer(grpc_server, OPEN_INFERENCE, OpenInference())
    add_servicer(grpc_server, SEQUENCES, Sequences())
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()

    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/v2/models/{model}/infer", infer, methods=["POST"])])
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    http_server = uvicorn.Server(config)
    http_server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.create_task(http_server.serve([listener]))
    print(
        f"ready rest=127.0.0.1:{listener.getsockname()[1]} grpc=127.0.0.1:{grpc_port}", flush=True
    )
    await serving


if __name__ == "__main__":
    uvloop.run(serve())
