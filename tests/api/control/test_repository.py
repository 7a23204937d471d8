"""Loading and unloading models while the server runs."""

import json
import shutil
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

CONFIG = json.dumps({"backend": "onnxruntime", "max_batch_size": 4})


@pytest.fixture
def client(changing: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(changing.server.grpc) as client:
        yield client


def index(client: Any) -> dict[tuple[str, str], Any]:
    return {(one.name, one.version): one for one in client.get_model_repository_index().models}


def sent_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("seqlens-sent-*"))


def load(stub: GRPCInferenceServiceStub, name: str, **parameters: Any) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        parameter = request.parameters[key]
        if isinstance(value, bytes):
            parameter.bytes_param = value
        else:
            parameter.string_param = value
    stub.RepositoryModelLoad(request)


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Code and message of a call that fails, of a stub or of tritonclient."""
    with pytest.raises((grpc.RpcError, triton.InferenceServerException)) as caught:
        call()
    error: Any = caught.value
    if isinstance(error, grpc.RpcError):
        return error.code().name, error.details()
    return error.status().removeprefix("StatusCode."), error.message()


def test_an_unloaded_model_stays_listed_and_can_be_loaded_again(client: Any, infer: Any) -> None:
    client.unload_model("lstm-onnx", unload_dependents=True)
    entry = index(client)["lstm-onnx", "1"]
    assert (entry.state, entry.reason) == ("UNAVAILABLE", "unloaded")
    assert not client.is_model_ready("lstm-onnx")
    ready = client.get_model_repository_index()
    assert {one.name for one in ready.models} >= {"lstm-onnx", "rnn-onnx"}
    code, message = refusal(lambda: infer("lstm-onnx"))
    assert code == "UNAVAILABLE"
    assert "unloaded" in message
    client.load_model("lstm-onnx")
    assert index(client)["lstm-onnx", "1"].state == "READY"
    infer("lstm-onnx")


def test_only_what_is_ready_if_asked(stub: GRPCInferenceServiceStub, client: Any) -> None:
    client.unload_model("lstm-onnx")
    names = {one.name for one in stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models}
    assert "rnn-onnx" in names
    assert "lstm-onnx" not in names
    client.load_model("lstm-onnx")


def test_loading_what_is_loaded_goes_on_with_it(
    client: Any, infer: Any, stub: GRPCInferenceServiceStub
) -> None:
    infer()
    count = pb.ModelStatisticsRequest(name="rnn-onnx")
    before = stub.ModelStatistics(count).model_stats[0].inference_count
    begun = time.monotonic()
    client.load_model("rnn-onnx")
    assert time.monotonic() - begun < 1
    assert stub.ModelStatistics(count).model_stats[0].inference_count == before > 0


@pytest.mark.parametrize("field", ["model_name", "repository_name"])
def test_kserve_names_the_model_where_others_name_the_repository(
    field: str, stub: GRPCInferenceServiceStub
) -> None:
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(**{field: "rnn-onnx"}))
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(**{field: "rnn-onnx"}))
    assert not stub.ModelReady(pb.ModelReadyRequest(name="rnn-onnx")).ready
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(**{field: "rnn-onnx"}))
    assert stub.ModelReady(pb.ModelReadyRequest(name="rnn-onnx")).ready


@pytest.mark.parametrize(
    ("name", "expected"), [("nobody", "NOT_FOUND"), ("../x", "NOT_FOUND"), ("", "INVALID_ARGUMENT")]
)
def test_models_that_are_not_there(
    name: str, expected: str, stub: GRPCInferenceServiceStub
) -> None:
    calls = (
        lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name)),
        lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name)),
    )
    for call in calls:
        assert refusal(call)[0] == expected


def test_a_load_that_fails_says_why_and_what_served_goes_on(
    changing: Any, client: Any, infer: Any
) -> None:
    file = changing.repository / "lstm-onnx" / "1" / "model.onnx"
    good = file.read_bytes()
    file.write_bytes(good[:1000])
    try:
        code, message = refusal(lambda: client.load_model("lstm-onnx"))
        assert code == "FAILED_PRECONDITION"
        assert "lstm-onnx" in message
        entry = index(client)["lstm-onnx", "1"]
        assert entry.state == "READY"
        assert "goes on serving" in entry.reason
        infer("lstm-onnx")
    finally:
        file.write_bytes(good)
    client.load_model("lstm-onnx")
    assert index(client)["lstm-onnx", "1"].reason == ""


def test_a_new_model_and_a_new_version_are_taken_up(
    changing: Any, repository: Path, client: Any, infer: Any
) -> None:
    added = changing.repository / "added"
    shutil.copytree(repository / "rnn-onnx", added)
    client.load_model("added")
    shutil.copytree(added / "1", added / "2")
    client.load_model("added")
    assert infer("added").model_version == "2"
    shutil.rmtree(added)
    assert refusal(lambda: client.load_model("added"))[0] == "NOT_FOUND"
    infer("added")  # what is loaded goes on until it is unloaded
    client.unload_model("added")


def test_a_configuration_counts_until_the_next_load(client: Any, infer: Any) -> None:
    own = client.get_model_config("rnn-onnx").config.max_batch_size
    client.load_model("rnn-onnx", config=CONFIG)
    assert client.get_model_config("rnn-onnx").config.max_batch_size == 4 != own
    infer()
    code, message = refusal(lambda: client.load_model("rnn-onnx", config='{"max_batch": 4}'))
    assert code == "FAILED_PRECONDITION"
    assert "max_batch" in message
    assert client.get_model_config("rnn-onnx").config.max_batch_size == 4
    client.load_model("rnn-onnx")
    assert client.get_model_config("rnn-onnx").config.max_batch_size == own


def test_files_are_served_and_deleted_when_unloaded(
    client: Any, repository: Path, infer: Any, stub: GRPCInferenceServiceStub
) -> None:
    before = sent_folders()
    model = (repository / "rnn-onnx" / "1" / "model.onnx").read_bytes()
    client.load_model("sent", config=CONFIG, files={"file:3/model.onnx": model})
    (folder,) = sent_folders() - before
    assert folder.stat().st_mode & 0o77 == 0
    assert infer("sent").model_version == "3"
    # Sent again, as base64 such as JSON holds: the files before are deleted.
    again = {"config": CONFIG, "file:4/model.onnx": b64encode(model).decode()}
    load(stub, "sent", **again)
    assert infer("sent").model_version == "4"
    (second,) = sent_folders() - before
    assert second != folder
    # One that cannot be loaded leaves what serves, and no file.
    bad = {"config": CONFIG, "file:5/model.onnx": b"no model"}
    assert refusal(lambda: load(stub, "sent", **bad))[0] == "FAILED_PRECONDITION"
    assert infer("sent").model_version == "4"
    assert sent_folders() - before == {second}
    client.unload_model("sent")
    assert sent_folders() == before
    assert refusal(lambda: client.load_model("sent"))[0] == "NOT_FOUND"


def test_files_that_replace_those_of_the_repository_give_way_to_them(
    client: Any, repository: Path, infer: Any
) -> None:
    before = sent_folders()
    model = (repository / "rnn-onnx" / "1" / "model.onnx").read_bytes()
    client.load_model("lstm-onnx", config=CONFIG, files={"file:7/model.onnx": model})
    assert infer("lstm-onnx").model_version == "7"
    client.load_model("lstm-onnx")
    assert infer("lstm-onnx").model_version == "1"
    assert sent_folders() == before


@pytest.mark.parametrize(
    "name",
    [
        "file:1/../model.onnx", "file:../1/model.onnx", "file:1/..", "file:1/.", "file:1/a/b",
        "file:/1/model.onnx", "file:model.onnx", "file:1/", "file:0/model.onnx", "file:01/m.onnx",
        "file:1/a\x00b", "file:1/a\\b", f"file:1/{'x' * 256}", "file:", "files:1/model.onnx",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(name: str, stub: GRPCInferenceServiceStub) -> None:
    before = sent_folders()
    code, message = refusal(lambda: load(stub, "sent", **{"config": CONFIG, name: b"x"}))
    assert code == "INVALID_ARGUMENT"
    assert "expected" in message
    assert sent_folders() == before


@pytest.mark.parametrize("name", ["../sent", "a/b", "..", ".sent", "a\x00b", "x" * 200])
def test_files_for_a_model_of_a_bad_name_are_refused(
    name: str, stub: GRPCInferenceServiceStub
) -> None:
    before = sent_folders()
    files = {"config": CONFIG, "file:1/model.onnx": b"x"}
    assert refusal(lambda: load(stub, name, **files))[0] == "FAILED_PRECONDITION"
    assert sent_folders() == before
    assert name not in {
        one.name for one in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    }


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"file:1/model.onnx": b"x"}, "parameters.config"),
        ({"config": b"{}"}, "parameters.config"),
        ({"confg": "{}"}, "parameters"),
        ({"config": CONFIG, "file:1/model.onnx": "not base64!"}, "parameters.file:1/model.onnx"),
        ({"config": CONFIG} | {f"file:1/{n}": b"" for n in range(300)}, "parameters"),
    ],
)
def test_parameters_that_make_no_sense(
    parameters: dict[str, Any], field: str, stub: GRPCInferenceServiceStub
) -> None:
    code, message = refusal(lambda: load(stub, "sent", **parameters))
    assert code == "INVALID_ARGUMENT"
    assert message.startswith(f"{field}: got ")


def test_a_load_goes_on_when_its_caller_leaves(changing: Any, infer: Any, client: Any) -> None:
    client.unload_model("rnn-onnx")
    code, _ = refusal(lambda: client.load_model("rnn-onnx", client_timeout=0.001))
    assert code == "DEADLINE_EXCEEDED"
    end = time.monotonic() + 20
    while not client.is_model_ready("rnn-onnx") and time.monotonic() < end:
        time.sleep(0.05)
        client.get_model_repository_index()
    client.load_model("rnn-onnx")
    infer()


def test_files_are_not_taken_unless_the_settings_say_so(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        files = {"config": CONFIG, "file:1/model.onnx": b"x"}
        code, message = refusal(lambda: load(stub, "sent", **files))
    assert code == "PERMISSION_DENIED"
    assert "accept_model_files" in message


def test_clients_control_nothing_and_share_no_memory_where_the_settings_forbid_it(
    tmp_path: Path, start_server: Any
) -> None:
    running = start_server(tmp_path, "--no-remote-control", "--no-shared-memory")
    region = pb.SystemSharedMemoryRegisterRequest(name="r", key="/r", byte_size=1)
    trace, logs = pb.TraceSettingRequest(), pb.LogSettingsRequest()
    trace.settings["trace_rate"].value.append("5")
    logs.settings["log_info"].bool_param = False
    with grpc.insecure_channel(running.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        requests = (
            lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m")),
            lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m")),
            lambda: stub.TraceSetting(trace),
            lambda: stub.LogSettings(logs),
            lambda: stub.SystemSharedMemoryRegister(region),
        )
        settings = ("remote_control",) * 4 + ("shared_memory",)
        for request, setting in zip(requests, settings, strict=True):
            code, message = refusal(request)
            assert code == "PERMISSION_DENIED"
            assert setting in message
        assert not stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert stub.LogSettings(pb.LogSettingsRequest()).settings["log_info"].bool_param
        announced = stub.ServerMetadata(pb.ServerMetadataRequest()).extensions
        assert "system_shared_memory" not in announced
