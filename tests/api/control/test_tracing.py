"""Traces that clients switch on, and the file that they are written to."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

DEFAULTS = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_mode": ["triton"],
}
PARTS = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
]
Infer = Callable[..., Any]


@pytest.fixture
def client(changing: Any) -> Iterator[Any]:
    """A client, all of whose settings are as at the start."""
    with triton.InferenceServerClient(changing.server.grpc) as client:
        cleared = dict.fromkeys(DEFAULTS)
        for model in ("rnn-onnx", "lstm-onnx", None):
            client.update_trace_settings(model, cleared)
        yield client
        for model in ("rnn-onnx", "lstm-onnx", None):
            client.update_trace_settings(model, cleared)


def settings(client: Any, model: str | None = None) -> dict[str, list[str]]:
    told = client.get_trace_settings(model, as_json=True)["settings"]
    return {name: one["value"] for name, one in told.items() if name != "trace_file"}


def written(path: Path, request_ids: set[str]) -> list[dict[str, Any]]:
    """The traces of these requests, once all are in the file."""
    end = time.monotonic() + 5
    while True:
        # In the moment in which it is begun a file is empty.
        text = path.read_text() if path.exists() else ""
        traces = json.loads(text or "[]")
        found = [one for one in traces if one.get("request_id") in request_ids]
        if len(found) == len(request_ids) or time.monotonic() > end:
            return found
        time.sleep(0.02)


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def test_nothing_is_traced_at_first(changing: Any, client: Any) -> None:
    told = client.get_trace_settings(as_json=True)["settings"]
    assert told["trace_file"]["value"] == [str(changing.traces)]
    assert settings(client) == settings(client, "rnn-onnx") == DEFAULTS


def test_a_model_follows_the_setting_for_all_until_it_has_its_own(client: Any) -> None:
    client.update_trace_settings(settings={"trace_rate": "7"})
    assert settings(client, "rnn-onnx")["trace_rate"] == ["7"]
    client.update_trace_settings("rnn-onnx", {"trace_rate": "3", "trace_level": ["TIMESTAMPS"]})
    client.update_trace_settings(settings={"trace_rate": "9", "log_frequency": "5"})
    own = settings(client, "rnn-onnx")
    assert own == DEFAULTS | {
        "trace_rate": ["3"],
        "trace_level": ["TIMESTAMPS"],
        "log_frequency": ["5"],
    }
    assert settings(client)["trace_level"] == ["OFF"]
    assert settings(client, "lstm-onnx")["trace_rate"] == ["9"]
    client.update_trace_settings("rnn-onnx", {"trace_rate": None, "trace_level": None})
    assert settings(client, "rnn-onnx") == settings(client)
    client.update_trace_settings(settings={"trace_rate": None, "log_frequency": None})
    assert settings(client) == DEFAULTS


def test_every_so_many_requests_of_a_model_one_is_written(
    changing: Any, client: Any, infer: Infer
) -> None:
    client.update_trace_settings("rnn-onnx", {"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
    for number in range(9):
        infer("rnn-onnx", f"rate {number}")
        infer("lstm-onnx", f"rate {number} of another")
    traced = written(changing.traces, {"rate 2", "rate 5", "rate 8"})
    assert [one["request_id"] for one in traced] == ["rate 2", "rate 5", "rate 8"]
    every = json.loads(changing.traces.read_text())
    assert sum(one["request_id"].startswith("rate ") for one in every) == 3
    assert len({one["id"] for one in every}) == len(every)
    for trace in traced:
        assert (trace["model_name"], trace["model_version"]) == ("rnn-onnx", 1)
        assert [moment["name"] for moment in trace["timestamps"]] == PARTS
        moments = [moment["ns"] for moment in trace["timestamps"]]
        assert moments == sorted(moments)


def test_a_trace_agrees_with_the_statistics_of_its_request(
    changing: Any, client: Any, infer: Infer
) -> None:
    client.update_trace_settings("lstm-onnx", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})

    def statistics() -> Any:
        told = client.get_inference_statistics("lstm-onnx", "1")
        return told.model_stats[0].inference_stats

    before = statistics()
    infer("lstm-onnx", "agrees")
    after = statistics()
    (trace,) = written(changing.traces, {"agrees"})
    at = {moment["name"]: moment["ns"] for moment in trace["timestamps"]}
    for name, begin, end in (
        ("success", "REQUEST_START", "REQUEST_END"),
        ("queue", "QUEUE_START", "COMPUTE_START"),
        ("compute_input", "COMPUTE_START", "COMPUTE_INPUT_END"),
        ("compute_infer", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
        ("compute_output", "COMPUTE_OUTPUT_START", "COMPUTE_END"),
    ):
        counted = getattr(after, name).ns - getattr(before, name).ns
        # Sums of floats, and a clock in seconds: no better than a microsecond.
        assert at[end] - at[begin] == pytest.approx(counted, abs=1_000)


def test_requests_that_fail_have_a_begin_and_an_end(
    changing: Any, client: Any, stub: GRPCInferenceServiceStub
) -> None:
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    for model in ("rnn-onnx", "nobody"):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(pb.ModelInferRequest(model_name=model, id=f"fails {model}"))
    request = pb.ModelInferRequest(model_name="rnn-onnx", id="fails inside")
    request.inputs.add(name="tokens", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.append(b"12345678")
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(request)
    (trace,) = written(changing.traces, {"fails inside"})
    assert [one["name"] for one in trace["timestamps"]] == ["REQUEST_START", "REQUEST_END"]
    assert "nobody" not in changing.traces.read_text()


def test_no_more_are_traced_than_asked_for(changing: Any, client: Any, infer: Infer) -> None:
    own = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    client.update_trace_settings("rnn-onnx", own)
    for number in range(5):
        infer("rnn-onnx", f"count {number}")
    assert len(written(changing.traces, {"count 0", "count 1"})) == 2
    assert settings(client, "rnn-onnx")["trace_count"] == ["0"]
    client.update_trace_settings("rnn-onnx", {"trace_count": "1"})
    infer("rnn-onnx", "count again")
    assert len(written(changing.traces, {"count again"})) == 1
    assert "count 2" not in changing.traces.read_text()


def test_with_a_log_frequency_each_file_holds_so_many(
    changing: Any, client: Any, infer: Infer
) -> None:
    on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "2"}
    client.update_trace_settings(settings=on)
    for number in range(5):
        infer("rnn-onnx", f"file {number}")
    first, second, third = (
        changing.traces.with_name(f"{changing.traces.name}.{number}") for number in range(3)
    )
    assert len(written(third, {"file 4"})) == 1
    assert len(json.loads(first.read_text())) == len(json.loads(second.read_text())) == 2


def test_sequences_of_a_stream_are_traced_each(
    changing: Any, client: Any, stub: GRPCInferenceServiceStub
) -> None:
    client.update_trace_settings("rnn-onnx", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    requests = []
    for number in range(3):
        request = pb.ModelInferRequest(model_name="rnn-onnx", id=f"stream {number}")
        tokens = request.inputs.add(name="tokens", datatype="INT64", shape=[1, 2])
        tokens.contents.int64_contents.extend([2, 3])
        requests.append(request)
    assert len(list(stub.ModelStreamInfer(iter(requests)))) == 3
    assert len(written(changing.traces, {f"stream {number}" for number in range(3)})) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trace_level", ["TENSORS"]), ("trace_level", ["OFF", "TIMESTAMPS"]),
        ("trace_level", "on"), ("trace_rate", "0"), ("trace_rate", "-1"), ("trace_rate", "x"),
        ("trace_rate", ["1", "2"]), ("trace_rate", "1.5"), ("trace_rate", "9" * 30),
        ("trace_rate", "9" * 5_000), ("trace_count", "-2"), ("trace_count", "٣"),
        ("log_frequency", "-1"), ("trace_mode", "opentelemetry"),
        ("trace_file", "/etc/passwd"), ("trace_rat", "1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", [None, "rnn-onnx"])
def test_what_cannot_be_set_is_refused_and_nothing_changes(
    name: str, value: Any, model: str | None, client: Any
) -> None:
    asked = {"trace_count": "12", name: value}
    code, message = refusal(lambda: client.update_trace_settings(model, asked))
    assert code == "StatusCode.INVALID_ARGUMENT"
    assert message.startswith("settings")
    assert "got " in message
    assert "expected " in message
    assert settings(client, model) == DEFAULTS


def test_what_is_fixed_may_be_told_again(changing: Any, client: Any) -> None:
    fixed = {"trace_file": str(changing.traces), "trace_mode": "triton"}
    client.update_trace_settings(settings=fixed)
    assert settings(client) == DEFAULTS


def test_a_model_that_is_not_there(client: Any) -> None:
    assert refusal(lambda: client.get_trace_settings("nobody"))[0] == "StatusCode.NOT_FOUND"


def test_without_a_file_nothing_can_be_traced(target: str) -> None:
    with triton.InferenceServerClient(target) as client:
        asked = {"trace_level": ["TIMESTAMPS"]}
        code, message = refusal(lambda: client.update_trace_settings(settings=asked))
        assert code == "StatusCode.INVALID_ARGUMENT"
        assert "trace_file" in message
        assert settings(client) == DEFAULTS
        client.update_trace_settings(settings={"trace_level": ["OFF"]})
