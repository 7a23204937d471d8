"""Our own routes over a real socket: REST gives the answers of gRPC."""

import json
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnx.parser
import pytest
from google.protobuf.json_format import ParseDict
from tests.conftest import RunningServer, StartServer
from tests.support.http_wire import WireAnswer, ask, head, post

from seqlens_client import Client
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub

# Features as they come, and one over each of them, which JSON cannot always tell.
FEATURES = """
<ir_version: 8, opset_import: ["" : 17]>
features (float[batch, time, 2] x) => (float[batch, time, 2] y, float[batch, time, 2] inverse) {
  y = Identity(x)
  inverse = Reciprocal(x)
}
"""
MODELS = ("rnn-torchscript", "lstm-onnx", "transformer-onnx")
SEQUENCES = [[5, 3, 9], [7], list(range(2, 60))]


def process(address: str, model: str, body: object, *lines: str) -> WireAnswer:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(address, post(f"/v1/models/{model}/process", text, *lines))


def get(address: str, path: str) -> WireAnswer:
    return ask(address, head("GET", path))


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_grpc(server: RunningServer, target: str, model: str) -> None:
    with Client(target) as client:
        expected = client.infer(model, SEQUENCES)
    answer = process(server.rest, model, {"sequences": SEQUENCES, "id": "ü"}).json
    assert (answer["model"], answer["version"], answer["id"]) == (model, "1", "ü")
    assert [one["length"] for one in answer["results"]] == [3, 1, 58]
    for one, result in zip(answer["results"], expected, strict=True):
        assert one["outputs"].keys() == result.outputs.keys()
        (logits,) = one["outputs"].values()
        np.testing.assert_allclose(logits, result.output, atol=1e-4)
        assert one["padded_length"] >= one["length"]
        assert one["batch_size"] >= 1
        assert min(one["queue_seconds"], one["compute_seconds"]) >= 0


def test_a_description_tells_what_grpc_tells(server: RunningServer, target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        request = pb.DescribeModelRequest(model_name="lstm-onnx")
        expected = SequenceServiceStub(channel).DescribeModel(request)
    answer = get(server.rest, "/v1/models/lstm-onnx").json
    assert ParseDict(answer, pb.DescribeModelResponse()) == expected
    assert answer["proof"]["checked_lengths"][0].__class__ is int, "numbers are numbers"
    assert get(server.rest, "/v1/models/lstm-onnx?version=1").json == answer


def test_models_are_listed_with_their_state(server: RunningServer) -> None:
    models = {model["name"]: model for model in get(server.rest, "/v1/models").json["models"]}
    assert len(models) == 6
    assert models["lstm-onnx"] == {
        "name": "lstm-onnx",
        "version": "1",
        "state": "READY",
        "reason": "",
        "ready": True,
        "architecture": "lstm",
    }


def test_texts_arrays_and_objects_come_together_and_bad_ones_cost_no_other(
    server: RunningServer,
) -> None:
    sequences = [[5, 3], "the kitten", {"tokens": [5, 3]}, [1e9], [99999], [], [[1]], None,
                 {"token": [1]}, {"tokens": [[1], [2, 3]]}, [1, "a"], 7, [True]]  # fmt: skip
    results = process(server.rest, "lstm-onnx", {"sequences": sequences}).json["results"]
    assert [one.get("length") for one in results] == [2, 2, 2] + [None] * 10
    assert results[0]["outputs"] == results[2]["outputs"]
    wrong = [one["error"] for one in results[3:]]
    assert {error["code"] for error in wrong} == {"INVALID_ARGUMENT"}
    assert [error["field"] for error in wrong] == [
        "inputs.tokens", "inputs.tokens[0]", "inputs.tokens", "inputs.tokens.shape", "inputs[0]",
        "inputs.token", "inputs.tokens", "inputs", "inputs.tokens.shape", "inputs.tokens",
    ]  # fmt: skip
    assert all(error["message"] and error["got"] and error["expected"] for error in wrong)


def test_a_label_names_the_best_class(server: RunningServer) -> None:
    labels = get(server.rest, "/v1/models/lstm-onnx").json["labels"]
    result = process(server.rest, "lstm-onnx", {"sequence": "the kitten"}).json["results"][0]
    assert result["label"] == labels[int(np.argmax(result["outputs"]["logits"]))]


def test_the_error_of_a_single_sequence_is_that_of_the_request(server: RunningServer) -> None:
    answer = process(server.rest, "lstm-onnx", {"sequence": [99999]})
    assert answer.status == 400
    assert answer.json["field"] == "inputs.tokens[0]"
    assert answer.json["got"] == "99999"


@pytest.mark.parametrize(
    ("model", "body", "status", "named"),
    [
        ("nope", {"sequence": [1]}, 404, "nope"),
        ("lstm-onnx", {"sequence": [1], "version": "7"}, 404, "version"),
        ("lstm-onnx", {"sequence": [1], "outputs": ["logit"]}, 400, "did you mean 'logits'"),
        ("lstm-onnx", {"sequence": [1], "sequences": []}, 400, "sequences"),
        ("lstm-onnx", {}, 400, "sequences"),
        ("lstm-onnx", {"sequences": 3}, 400, "sequences: got no list"),
        ("lstm-onnx", {"sequences": [[1]] * 4097}, 400, "at most 4096"),
        ("lstm-onnx", {"sequence": [1], "priorty": 1}, 400, "priorty"),
        ("lstm-onnx", {"sequence": [1], "priority": -1}, 400, "priority"),
        ("lstm-onnx", {"sequence": [1], "timeout_seconds": 0}, 400, "timeout_seconds"),
        ("lstm-onnx", [], 400, "object"),
        ("lstm-onnx", b"", 400, "got nothing"),
        ("lstm-onnx", b"[" * 100_000, 400, "body"),
        ("lstm-onnx", b'{"sequence": [1, NaN]}', 400, "NaN"),
        ("lstm-onnx", b'{"sequence": "\xff"}', 400, "UTF-8"),
        ("lstm-onnx", b'{"sequence": "\\ud800"}', 400, "JSON"),
        ("lstm-onnx", b'{"sequence": ' + b"[" * 50 + b"]" * 50 + b"}", 400, "nested"),
    ],
)
def test_requests_that_are_wrong_as_a_whole_say_why(
    server: RunningServer, model: str, body: object, status: int, named: str
) -> None:
    answer = process(server.rest, model, body)
    assert answer.status == status
    assert named in answer.error
    assert process(server.rest, "lstm-onnx", {"sequence": [1]}).status == 200


def test_the_body_needs_no_content_type(server: RunningServer) -> None:
    for line in ("content-type: application/x-www-form-urlencoded", "content-type: text/plain"):
        assert process(server.rest, "lstm-onnx", {"sequence": [1]}, line).status == 200


def test_a_deadline_that_has_passed_is_told_to_each_sequence(server: RunningServer) -> None:
    body = {"sequences": [[1], [2]], "timeout_seconds": 1e-9}
    results = process(server.rest, "lstm-onnx", body).json["results"]
    assert [one["error"]["code"] for one in results] == ["DEADLINE_EXCEEDED"] * 2
    assert process(server.rest, "lstm-onnx", {**body, "timeout_seconds": 1e300}).status == 200


def test_a_small_body_of_very_many_sequences_costs_little(server: RunningServer) -> None:
    before = peak_mib(server)
    answer = process(server.rest, "lstm-onnx", b'{"sequences": [' + b"[]," * 5_000_000 + b"1]}")
    assert answer.status == 400
    assert "at most 4096" in answer.error
    # The body itself, received in pieces and joined, and no list of its elements.
    assert peak_mib(server) - before < 100


def peak_mib(server: RunningServer) -> int:
    """Most memory that the server has ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


@pytest.fixture(scope="module")
def small(serve_for_module: StartServer, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """A server whose messages are small, of a model that answers with what it is given."""
    folder = tmp_path_factory.mktemp("models")
    version = folder / "features" / "1"
    version.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(FEATURES), version / "model.onnx")
    return serve_for_module(folder, "--limits.max-message-bytes", "4096")


def test_features_come_as_lists_of_lists(small: RunningServer) -> None:
    features = [[0.5, -1], [2, 3e-3], [4, 5]]
    result = process(small.rest, "features", {"sequence": features}).json["results"][0]
    assert result["length"] == 3
    np.testing.assert_array_equal(np.float32(result["outputs"]["y"]), np.float32(features))


def test_infinity_is_an_error_of_its_sequence_and_not_another_number(small: RunningServer) -> None:
    body = {"sequences": [[[0, 1]], [[2, 4]]]}
    infinite, finite = process(small.rest, "features", body).json["results"]
    assert infinite["error"]["field"] == "outputs.inverse"
    assert finite["outputs"]["inverse"] == [[0.5, 0.25]]
    (only,) = process(small.rest, "features", body | {"outputs": ["y"]}).json["results"][:1]
    assert only["outputs"] == {"y": [[0.0, 1.0]]}


def test_an_answer_that_is_too_large_is_refused(small: RunningServer) -> None:
    features = [[0.33, 0.37]] * 150
    answer = process(small.rest, "features", {"sequences": [features]})
    assert answer.status == 400
    assert "max_message_bytes" in answer.error


def test_a_body_that_is_too_large_is_refused(small: RunningServer) -> None:
    assert process(small.rest, "features", {"sequences": [[[1, 2]] * 3000]}).status == 413
