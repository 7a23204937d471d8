"""A server that these tests may change: two models in a folder of its own, traces, sent files."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.conftest import starter

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub


@dataclass(frozen=True, slots=True)
class Changing:
    """The server, its repository and its trace file."""

    server: Any
    repository: Path
    traces: Path


@pytest.fixture(scope="package")
def changing(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    folder = tmp_path_factory.mktemp("changing")
    for model in ("rnn-onnx", "lstm-onnx"):
        shutil.copytree(repository / model, folder / "models" / model)
    traces = folder / "traces.json"
    options = ("--accept-model-files", "--trace-file", str(traces))
    with starter(tmp_path_factory) as start:
        yield Changing(start(folder / "models", *options), folder / "models", traces)


@pytest.fixture
def stub(changing: Changing) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(changing.server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


Infer = Callable[..., Any]


@pytest.fixture
def infer(stub: GRPCInferenceServiceStub) -> Infer:
    """Send a request: ``infer(model, id)``."""

    def send(model: str = "rnn-onnx", request_id: str = "", version: str = "") -> Any:
        request = pb.ModelInferRequest(model_name=model, id=request_id, model_version=version)
        request.inputs.add(name="tokens", datatype="INT64", shape=[1, 3])
        request.raw_input_contents.append(np.array([2, 3, 5], np.int64).tobytes())
        return stub.ModelInfer(request)

    return send
