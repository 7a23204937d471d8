"""Large and compressed messages: what passes, what is refused, and what memory that takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.support.protocol_models import WIDTH, save_protocol_models

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.services import OPEN_INFERENCE

MIB = 1 << 20
ROW_BYTES = WIDTH * 4
COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


@pytest.fixture(scope="module")
def wide_server(
    tmp_path_factory: pytest.TempPathFactory, serve_for_module: Callable[..., Any]
) -> Any:
    folder = tmp_path_factory.mktemp("message-sizes")
    save_protocol_models(folder)
    return serve_for_module(folder)


@pytest.fixture
def client(wide_server: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(wide_server.grpc) as client:
        yield client


@pytest.fixture
def infer_bytes(wide_server: Any) -> Iterator[Callable[..., pb.ModelInferResponse]]:
    """Call ModelInfer with any bytes."""
    # Only what the server takes is of interest, not what this side would send.
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(wide_server.grpc, options) as channel:
        yield channel.unary_unary(
            f"/{OPEN_INFERENCE}/ModelInfer",
            response_deserializer=pb.ModelInferResponse.FromString,
        )


def wide_inputs(size: int) -> list[Any]:
    x = np.full((size // ROW_BYTES, WIDTH), 0.5, np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


def memory_mib(process: int, name: str) -> float:
    """What Linux says of a process: VmRSS, its memory now, or VmHWM, the most since a reset."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def test_60_mib_pass_in_both_directions(client: Any) -> None:
    y = client.infer("wide", wide_inputs(60 * MIB)).as_numpy("y")
    assert y.nbytes == 60 * MIB
    assert y.min() == y.max() == 1.0


def test_65_mib_are_refused_before_they_are_read(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("wide", wide_inputs(65 * MIB))
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert f"vs. {64 * MIB}" in caught.value.message()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered_like_others(algorithm: str, client: Any) -> None:
    y = client.infer("wide", wide_inputs(MIB), compression_algorithm=algorithm).as_numpy("y")
    assert (y.shape, y.min(), y.max()) == ((MIB // ROW_BYTES, WIDTH), 1.0, 1.0)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_a_small_message_swells_to_is_bounded(
    compression: grpc.Compression, wide_server: Any, infer_bytes: Any
) -> None:
    """gRPC itself stops decompressing at the limit for messages."""
    process = wide_server.process.pid
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the most so far is forgotten
    before = memory_mib(process, "VmRSS")
    with pytest.raises(grpc.RpcError) as caught:
        infer_bytes(bytes(160 * MIB), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()
    assert memory_mib(process, "VmHWM") - before < 100


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x00"])
def test_bytes_that_are_no_message_cost_their_call_only(
    data: bytes, infer_bytes: Any, client: Any
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer_bytes(data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "message: got bytes that cannot be read, expected a message"
    assert client.infer("wide", wide_inputs(ROW_BYTES)).as_numpy("y").shape == (1, WIDTH)
