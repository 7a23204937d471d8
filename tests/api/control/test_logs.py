"""Logs that clients switch while the server runs."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

DEFAULTS: dict[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "ISO8601",
}
Infer = Callable[..., Any]


@pytest.fixture
def client(changing: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(changing.server.grpc) as client:
        yield client
        client.update_log_settings(DEFAULTS)


def settings(client: Any) -> dict[str, Any]:
    told = client.get_log_settings().settings
    return {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in told.items()}


@pytest.fixture
def logged(changing: Any) -> Callable[[Callable[[], Any]], str]:
    """What the server logs while something is done."""

    def during(act: Callable[[], Any]) -> str:
        before = len(changing.server.log.read_text())
        act()
        text: str = changing.server.log.read_text()
        return text[before:]

    return during


def test_what_is_set_at_the_start(client: Any) -> None:
    assert settings(client) == DEFAULTS


def test_a_verbose_server_logs_every_request(client: Any, infer: Infer, logged: Any) -> None:
    assert logged(infer) == ""
    client.update_log_settings({"log_verbose_level": 1, "log_info": False})
    line = logged(infer)
    assert '"model": "rnn-onnx"' in line
    assert '"code": "OK"' in line
    assert settings(client)["log_verbose_level"] == 1
    client.update_log_settings({"log_verbose_level": 0})
    assert logged(infer) == ""


def test_each_kind_of_line_is_switched_by_itself(client: Any, logged: Any) -> None:
    def reload() -> None:
        client.unload_model("rnn-onnx")
        client.load_model("rnn-onnx")

    def fail() -> None:
        with pytest.raises(triton.InferenceServerException):
            client.load_model("rnn-onnx", config='{"name": "another"}')

    assert "rnn-onnx version 1 is ready" in logged(reload)
    client.update_log_settings({"log_info": False})
    assert logged(reload) == ""
    assert "cannot be loaded" in logged(fail)
    client.update_log_settings({"log_error": False, "log_info": True})
    assert "cannot be loaded" not in logged(fail)
    assert "rnn-onnx version 1 is ready" in logged(reload)
    client.update_log_settings({"log_error": True})
    assert "cannot be loaded" in logged(fail)
    reload()


def test_formats(client: Any) -> None:
    for name in ("default", "ISO8601"):
        client.update_log_settings({"log_format": name})
        assert settings(client)["log_format"] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_file", {"string_param": "/tmp/log"}),
        ("log_format", {"string_param": "xml"}),
        ("log_info", {"string_param": "true"}),
        ("log_info", {}),
        ("log_verbose_level", {"bool_param": True}),
        ("log_level", {"uint32_param": 1}),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_changes(
    name: str, value: dict[str, Any], client: Any, stub: GRPCInferenceServiceStub
) -> None:
    request = pb.LogSettingsRequest()
    request.settings["log_warning"].bool_param = False
    request.settings[name].CopyFrom(pb.LogSettingsRequest.SettingValue(**value))
    with pytest.raises(grpc.RpcError) as caught:
        stub.LogSettings(request)
    error: Any = caught.value
    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details().startswith("settings")
    assert "expected " in error.details()
    assert settings(client) == DEFAULTS
