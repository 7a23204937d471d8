"""Start, failure and end of the whole server."""

import asyncio
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from seqlens.server import Server
from seqlens.settings import ServerSettings
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb import sequences_pb2
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import pack

StartServer = Callable[..., Any]

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def small_repository(repository: Path, folder: Path, *models: str) -> Path:
    for model in models:
        (folder / model).symlink_to(repository / model)
    return folder


def infer(target: str, model: str, tokens: list[int]) -> pb.ModelInferResponse:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="tokens", datatype="INT64", shape=[1, len(tokens)])
    request.raw_input_contents.append(np.array(tokens, np.int64).tobytes())
    with grpc.insecure_channel(target) as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request)  # type: ignore[no-any-return]


def long_batch() -> sequences_pb2.ProcessBatchRequest:
    """More than a second of work for one lane."""
    request = sequences_pb2.ProcessBatchRequest(model_name="rnn-torchscript")
    request.sequences.inputs.append(pack("tokens", "INT64", [np.full(2000, 2)] * 30))
    return request


def live_and_ready(target: str) -> tuple[bool, bool]:
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        ready = stub.ServerReady(pb.ServerReadyRequest()).ready
        return stub.ServerLive(pb.ServerLiveRequest()).live, ready


def index(target: str) -> dict[str, Any]:
    with grpc.insecure_channel(target) as channel:
        answer = GRPCInferenceServiceStub(channel).RepositoryIndex(pb.RepositoryIndexRequest())
    return {entry.name: entry for entry in answer.models}


def test_the_ready_line_names_every_address(server: Any) -> None:
    words = server.ready_line.split()
    assert words[0] == "ready"
    assert [word.split("=")[0] for word in words[1:]] == ["rest", "grpc", "metrics", "models"]
    assert server.address("models") == "6"


def test_metrics_are_served(server: Any) -> None:
    infer(server.grpc, "lstm-onnx", [2, 3])
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
        text = response.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("seqlens_requests_total")]
    assert any('code="OK"' in line and 'model="lstm-onnx"' in line for line in lines)


@pytest.mark.parametrize(("port", "what"), [("rest", "REST"), ("grpc", "gRPC"), ("metrics",) * 2])
def test_a_second_server_on_a_port_fails_and_says_which(
    port: str, what: str, server: Any, repository: Path, seqlens: Callable[..., Any]
) -> None:
    address = server.address(port)
    ports = {"rest": "0", "grpc": "0", "metrics": "0"} | {port: address.rpartition(":")[2]}
    second = seqlens(
        "serve", "--repository", str(repository), "--http-port", ports["rest"],
        "--grpc-port", ports["grpc"], "--metrics-port", ports["metrics"],
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stdout == ""
    assert f"cannot listen for {what} on {address}" in second.stderr
    assert "Traceback" not in second.stderr
    infer(server.grpc, "lstm-onnx", [2, 3])


def test_a_device_that_is_not_there_ends_the_start_with_advice(
    repository: Path, tmp_path: Path, seqlens: Callable[..., Any]
) -> None:
    few = small_repository(repository, tmp_path, "lstm-onnx", "lstm-torchscript")
    # Device 99: so the test also holds on a machine with GPUs.
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    ended = seqlens("serve", "--repository", str(few), "--device", "cuda:99", *ports)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("seqlens: device cuda:99 is not available to")
    assert "Traceback" not in ended.stderr


def test_broken_and_foreign_files_do_not_keep_the_good_from_serving(
    repository: Path, tmp_path: Path, start_server: StartServer
) -> None:
    folder = small_repository(repository, tmp_path, "lstm-onnx", "rnn-torchscript")
    good_onnx = (repository / "rnn-onnx" / "1" / "model.onnx").read_bytes()
    good_pt = (repository / "rnn-torchscript" / "1" / "model.pt").read_bytes()
    broken = {
        "truncated-onnx/1/model.onnx": good_onnx[: len(good_onnx) // 2],
        "truncated-torchscript/1/model.pt": good_pt[: len(good_pt) // 2],
        "foreign-onnx/1/model.onnx": b"these are not the bytes of a model",
        "foreign-torchscript/1/model.pt": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "empty-onnx/1/model.onnx": b"",
    }
    for path, data in broken.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(data)
    target = start_server(folder).grpc
    states = index(target)
    assert {states[name].state for name in ("lstm-onnx", "rnn-torchscript")} == {"READY"}
    for path in broken:
        entry = states[path.split("/")[0]]
        assert entry.state == "UNAVAILABLE"
        assert entry.reason
        with pytest.raises(grpc.RpcError) as caught:
            infer(target, entry.name, [2])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert infer(target, "lstm-onnx", [2, 3]).outputs[0].shape == [1, 40]


def test_a_full_waiting_room_refuses_with_the_time_to_come_again(
    repository: Path, tmp_path: Path, start_server: StartServer
) -> None:
    folder = small_repository(repository, tmp_path, "rnn-torchscript")
    target = start_server(folder, "--scheduler.max-waiting-sequences", "4").grpc
    with grpc.insecure_channel(target) as channel:
        answer = SequenceServiceStub(channel).ProcessBatch.future(long_batch())
        time.sleep(0.2)
        with pytest.raises(grpc.RpcError) as caught:
            infer(target, "rnn-torchscript", [2])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        assert not any(result.HasField("error") for result in answer.result().answers.results)
    assert infer(target, "rnn-torchscript", [2]).outputs[0].shape == [1, 40]


def test_sigterm_lets_calls_in_progress_finish_and_turns_health_off(
    repository: Path, tmp_path: Path, start_server: StartServer
) -> None:
    running = start_server(small_repository(repository, tmp_path, "rnn-torchscript"))
    with grpc.insecure_channel(running.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        answer = SequenceServiceStub(channel).ProcessBatch.future(long_batch())
        time.sleep(0.2)
        assert not answer.done()
        running.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert not any(result.HasField("error") for result in answer.result().answers.results)
        # Whoever watches the health does not hold the end up.
        assert running.process.wait(5) == 0


async def test_sigterm_under_load_answers_every_call_or_refuses_it_as_unavailable(
    repository: Path, tmp_path: Path, start_server: StartServer
) -> None:
    """Calls that have arrived but that no method has seen yet are not cancelled by gRPC."""
    running = start_server(small_repository(repository, tmp_path, "rnn-onnx"))
    request = sequences_pb2.ProcessBatchRequest(model_name="rnn-onnx")
    request.sequences.inputs.append(pack("tokens", "INT64", [np.full(20, 2)]))
    async with grpc.aio.insecure_channel(running.grpc) as channel:
        stub = SequenceServiceStub(channel)
        await stub.ProcessBatch(request)
        calls = [stub.ProcessBatch(request, timeout=20) for _ in range(1000)]
        await calls[0]
        running.process.send_signal(signal.SIGTERM)
        codes = {await call.code() for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_a_stream_that_is_open_when_the_server_drains_gets_its_answers_and_the_reason(
    repository: Path, tmp_path: Path, start_server: StartServer
) -> None:
    running = start_server(small_repository(repository, tmp_path, "lstm-onnx"))
    still_open = threading.Event()

    def messages() -> Any:
        options = sequences_pb2.StreamOptions(model_name="lstm-onnx")
        yield sequences_pb2.ProcessStreamRequest(options=options)
        message = sequences_pb2.StreamSequences(ids=["a"])
        message.sequences.inputs.append(pack("tokens", "INT64", [np.array([2, 3])]))
        yield sequences_pb2.ProcessStreamRequest(sequences=message)
        still_open.wait(30)

    with grpc.insecure_channel(running.grpc) as channel:
        call = SequenceServiceStub(channel).ProcessStream(messages())
        assert list(next(call).ids) == ["a"]
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        still_open.set()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in caught.value.details()
    assert running.process.wait(10) == 0


async def test_a_server_starts_in_three_lines_and_leaves_nothing_behind(
    repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    small_repository(repository, folder, "rnn-onnx")
    settings = ServerSettings(
        folder,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        lanes=1,
        load_workers=1,
        cache=tmp_path / "cache",
    )
    threads = set(threading.enumerate())
    async with Server.start(settings) as server:
        assert await asyncio.to_thread(live_and_ready, server.grpc_address) == (True, False)
        await server.ready()
        assert await asyncio.to_thread(live_and_ready, server.grpc_address) == (True, True)
        answer = await asyncio.to_thread(infer, server.grpc_address, "rnn-onnx", [2, 3])
        assert answer.outputs[0].shape == [1, 40]
        # The other package that speaks the protocol, in one process and on one loop with ours.
        async with triton_aio.InferenceServerClient(server.grpc_address) as client:
            assert await client.is_model_ready("rnn-onnx")
        address = server.grpc_address
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(infer, address, "rnn-onnx", [2, 3])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    left = [one.name for one in set(threading.enumerate()) - threads]
    assert not any("lane" in name for name in left)
