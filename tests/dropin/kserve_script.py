"""KServe's clients against a server; run with KServe's own Python. Prints what came as JSON.

Arguments: REST address, gRPC address, model, tokens as JSON rows.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import RequestedOutput


def request(model: str, rows: list[list[int]], *, raw: bool, wanted: bool = True) -> InferRequest:
    array = np.array(rows)
    tokens = InferInput("tokens", list(array.shape), "INT64")
    tokens.set_data_from_numpy(array, binary_data=raw)
    outputs = [RequestedOutput("logits", {"binary_data": raw})] if wanted else None
    return InferRequest(model, [tokens], request_id="k", request_outputs=outputs)


def answer(response: Any) -> dict[str, Any]:
    [output] = response.outputs
    return {"id": response.id, "logits": output.as_numpy().tolist()}


async def over_grpc(address: str, model: str, rows: list[list[int]]) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        told: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(model),
        }
        for name, raw in (("typed", False), ("raw", True)):
            told[name] = answer(await client.infer(request(model, rows, raw=raw)))
        try:
            await client.infer(request("nowhere", rows, raw=True))
        except grpc.RpcError as error:
            told["error"] = [error.code().name, error.details()]
    return told


async def over_rest(address: str, model: str, rows: list[list[int]]) -> dict[str, Any]:
    base = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        told: dict[str, Any] = {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model ready": await client.is_model_ready(base, model),
            "unknown ready": await client.is_model_ready(base, "nowhere"),
        }
        for name, raw in (("typed", False), ("raw", True)):
            sent = request(model, rows, raw=raw)
            told[name] = answer(await client.infer(base, sent, model_name=model))
        try:
            await client.infer(base, request(model, rows, raw=True), model_name="nowhere")
        except httpx.HTTPStatusError as error:
            told["error"] = [error.response.status_code, str(error)]
    return told


def control(address: str, model: str) -> dict[str, Any]:
    """Its stub, whose messages for loading conflict with those of the reference server."""
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
        unloaded = stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model))
        gone = stub.ModelReady(pb.ModelReadyRequest(name=model)).ready
        loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model))
        return {
            "inputs": [tensor.name for tensor in metadata.inputs],
            "ready when unloaded": gone,
            "ready when loaded": stub.ModelReady(pb.ModelReadyRequest(name=model)).ready,
            "says so": [unloaded.isUnloaded, loaded.isLoaded],
        }


async def main(rest: str, address: str, model: str, rows: list[list[int]]) -> None:
    told = {
        "grpc": await over_grpc(address, model, rows),
        "rest": await over_rest(rest, model, rows),
        "control": control(address, model),
    }
    print(json.dumps(told))


logging.disable()  # it logs the errors that are provoked here
asyncio.run(main(*sys.argv[1:4], json.loads(sys.argv[4])))
