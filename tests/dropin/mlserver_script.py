"""MLServer's client code against a server; run with MLServer's own Python. Prints JSON.

Arguments: REST address, gRPC address, model, tokens as JSON rows.
"""

import json
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import (
    ModelInferRequestConverter,
    ModelInferResponseConverter,
    ModelMetadataResponseConverter,
    ServerMetadataResponseConverter,
)
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.grpc.model_repository_pb2 import RepositoryIndexRequest
from mlserver.grpc.model_repository_pb2_grpc import ModelRepositoryServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse


def request(rows: list[list[int]]) -> InferenceRequest:
    tokens = NumpyCodec.encode_input("tokens", np.array(rows))
    return InferenceRequest(id="m", inputs=[tokens])


def answer(response: InferenceResponse) -> dict[str, Any]:
    [output] = response.outputs
    return {"id": response.id, "logits": NumpyCodec.decode_output(output).tolist()}


def over_grpc(address: str, model: str, rows: list[list[int]]) -> dict[str, Any]:
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        told: dict[str, Any] = {
            "live": stub.ServerLive(pb.ServerLiveRequest()).live,
            "ready": stub.ServerReady(pb.ServerReadyRequest()).ready,
            "model ready": stub.ModelReady(pb.ModelReadyRequest(name=model)).ready,
        }
        server = stub.ServerMetadata(pb.ServerMetadataRequest())
        told["server"] = ServerMetadataResponseConverter.to_types(server).name
        told["metadata"] = metadata(stub, model)
        for name, raw in (("typed", False), ("raw", True)):
            sent = ModelInferRequestConverter.from_types(request(rows), model, None, use_raw=raw)
            told[name] = answer(ModelInferResponseConverter.to_types(stub.ModelInfer(sent)))
        told["control"] = control(stub, model)
        told["own repository service"] = repository_service(channel)
        told["stream"] = stream(stub, sent)
    return told


def metadata(stub: GRPCInferenceServiceStub, model: str) -> list[str]:
    """Names of the inputs."""
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
    return [one.name for one in ModelMetadataResponseConverter.to_types(told).inputs]


def control(stub: GRPCInferenceServiceStub, model: str) -> dict[str, Any]:
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest())
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model))
    gone = stub.ModelReady(pb.ModelReadyRequest(name=model)).ready
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model))
    return {
        "models": [one.name for one in index.models],
        "ready when unloaded": gone,
        "ready when loaded": stub.ModelReady(pb.ModelReadyRequest(name=model)).ready,
    }


def repository_service(channel: grpc.Channel) -> str:
    """Its second service of the same calls, by which MLServer is controlled."""
    try:
        ModelRepositoryServiceStub(channel).RepositoryIndex(RepositoryIndexRequest())
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def stream(stub: GRPCInferenceServiceStub, sent: Any) -> str:
    """It takes the messages of a stream for bare answers, which only MLServer sends."""
    try:
        [response] = stub.ModelStreamInfer(iter([sent]))
        return "OK" if response.outputs else "an answer without outputs"
    except grpc.RpcError as error:
        return error.code().name


def over_rest(address: str, model: str, rows: list[list[int]]) -> dict[str, Any]:
    url = f"http://{address}/v2/models/{model}"
    with urlopen(url) as told:
        metadata = MetadataModelResponse.model_validate_json(told.read())
    body = request(rows).model_dump_json(exclude_none=True).encode()
    with urlopen(Request(f"{url}/infer", body, {"Content-Type": "application/json"})) as told:
        response = InferenceResponse.model_validate_json(told.read())
    try:
        urlopen(Request(f"http://{address}/v2/models/nowhere/infer", body))
    except HTTPError as error:
        refused = [error.code, json.loads(error.read())["error"]]
    return {
        "inputs": [tensor.name for tensor in metadata.inputs],
        "typed": answer(response),
        "error": refused,
    }


def main(rest: str, address: str, model: str, rows: list[list[int]]) -> None:
    told = {"grpc": over_grpc(address, model, rows), "rest": over_rest(rest, model, rows)}
    print(json.dumps(told))


main(*sys.argv[1:4], json.loads(sys.argv[4]))
