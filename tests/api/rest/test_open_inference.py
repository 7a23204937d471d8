"""Every route under ``/v2``: by hand, and by the client that most programs use."""

import json
import os
import shutil
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tests.conftest import RunningServer, StartServer
from tests.support.http_wire import WireAnswer, ask, head, post
from tritonclient.utils import InferenceServerException, shared_memory

from seqlens_zoo.weights import reference

SEQUENCES = [[5, 3, 9, 12], [7], [8, 8, 2]]
RNN = "/v2/models/rnn-onnx"
HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def own(
    repository: Path, serve_for_module: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    """A server of one model, for tests that change it."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(repository / "rnn-onnx", folder / "rnn-onnx")
    return serve_for_module(folder, "--trace-file", str(folder.parent / "trace.json"))


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.rest) as client:
        yield client


@pytest.fixture
def own_client(own: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(own.rest) as client:
        yield client


def call(address: str, method: str, path: str, body: object = None) -> WireAnswer:
    if method != "POST":
        return ask(address, head(method, path))
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return ask(address, post(path, data))


def expected(sequences: list[list[int]] = SEQUENCES) -> NDArray[np.float32]:
    return reference("rnn", sequences)


def padded(sequences: list[list[int]] = SEQUENCES) -> NDArray[np.int64]:
    batch = np.full((len(sequences), max(map(len, sequences))), 5, np.int64)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


def inputs(*, binary: bool = True) -> list[triton.InferInput]:
    arrays = {"tokens": padded(), "lengths": np.array([len(one) for one in SEQUENCES])}
    sent = []
    for name, array in arrays.items():
        one = triton.InferInput(name, list(array.shape), "INT64")
        one.set_data_from_numpy(array, binary_data=binary)
        sent.append(one)
    return sent


def tokens(data: object, shape: list[int], **rest: object) -> dict[str, object]:
    return {"name": "tokens", "datatype": "INT64", "shape": shape, "data": data, **rest}


class TestInference:
    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False, None])
    @pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
    def test_tritonclient_gets_pytorchs_answers(
        self,
        client: triton.InferenceServerClient,
        binary_in: bool,
        binary_out: bool | None,
        compression: str | None,
    ) -> None:
        outputs = None
        if binary_out is not None:
            outputs = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
        result = client.infer(
            "rnn-onnx",
            inputs(binary=binary_in),
            outputs=outputs,
            request_id="r1",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        np.testing.assert_allclose(result.as_numpy("logits"), expected(), atol=1e-5)
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == (
            "r1",
            "rnn-onnx",
            "1",
        )
        in_json = "data" in answer["outputs"][0]
        assert in_json == (binary_out is False)

    def test_json_by_hand(self, server: RunningServer) -> None:
        body = {"id": "é", "inputs": [tokens(SEQUENCES[:1], [1, 4])]}
        answer = call(server.rest, "POST", f"{RNN}/versions/1/infer?x=1", body)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert HEADER not in answer.headers
        assert list(answer.json) == ["model_name", "model_version", "id", "outputs"]
        assert answer.json["id"] == "é"
        (output,) = answer.json["outputs"]
        assert list(output) == ["name", "datatype", "shape", "data"]
        assert output["shape"] == [1, 40]
        np.testing.assert_allclose(output["data"], expected(SEQUENCES[:1])[0], atol=1e-5)

    def test_one_request_of_both_forms_with_a_header_in_any_case(
        self, server: RunningServer
    ) -> None:
        raw = padded().astype("<i8").tobytes()
        lengths = {"name": "lengths", "datatype": "INT64", "shape": [3], "data": [4, 1, 3]}
        binary = tokens(None, [3, 4], parameters={"binary_data_size": len(raw)})
        text = json.dumps(
            {"parameters": {"binary_data_output": True}, "inputs": [binary, lengths]}
        ).encode()
        answer = ask(
            server.rest,
            post(
                f"{RNN}/infer",
                text + raw,
                f"INFERENCE-header-CONTENT-length: {len(text)}",
                "content-type: application/x-www-form-urlencoded",
            ),
        )
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[HEADER])
        (output,) = json.loads(answer.body[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": 3 * 40 * 4}
        logits = np.frombuffer(answer.body[length:], np.float32).reshape(3, 40)
        np.testing.assert_allclose(logits, expected(), atol=1e-5)

    def test_a_body_of_bytes_alone(self, server: RunningServer) -> None:
        raw = np.array(SEQUENCES[0], "<i8").tobytes()
        answer = ask(server.rest, post(f"{RNN}/infer", raw, f"{HEADER}: 0"))
        assert answer.status == 200
        logits = np.frombuffer(answer.body[int(answer.headers[HEADER]) :], np.float32)
        np.testing.assert_allclose(logits, expected(SEQUENCES[:1])[0], atol=1e-5)
        assert ask(server.rest, post(f"{RNN}/infer", raw[:-1], f"{HEADER}: 0")).status == 400

    @pytest.mark.parametrize("binary", [True, False])
    def test_the_best_classes_come_with_their_labels(
        self, client: triton.InferenceServerClient, binary: bool
    ) -> None:
        wanted = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
        found = client.infer("rnn-onnx", inputs(), outputs=[wanted]).as_numpy("logits")
        best = np.argsort(-expected(), axis=1)[:, :2]
        assert found.shape == (3, 2)
        texts = [one.decode() if isinstance(one, bytes) else one for one in found.ravel()]
        assert [int(text.split(":")[1]) for text in texts] == best.ravel().tolist()
        assert all(text.split(":")[2] for text in texts)

    def test_sixty_mebibytes_pass_in_both_forms_and_memory_stays_bounded(
        self, own: RunningServer
    ) -> None:
        size = 60 << 20
        lengths = {"name": "lengths", "datatype": "INT64", "shape": [1920], "data": [1] * 1920}
        raw = np.full((1920, 4096), 5, "<i8").tobytes()
        binary = tokens(None, [1920, 4096], parameters={"binary_data_size": size})
        text = json.dumps({"inputs": [binary, lengths]}).encode()
        before = peak_bytes(own)
        answer = ask(own.rest, post(f"{RNN}/infer", text + raw, f"{HEADER}: {len(text)}"))
        assert answer.status == 200
        numbers = b"[" + b",      ".join([b"5"] * (1920 * 4096)) + b"]"
        text = json.dumps({"inputs": [lengths, tokens("HERE", [1920, 4096])]}).encode()
        text = text.replace(b'"HERE"', numbers)
        assert size <= len(text) < 64 << 20
        answer = ask(own.rest, post(f"{RNN}/infer", text))
        assert answer.status == 200
        logits = np.array(answer.json["outputs"][0]["data"]).reshape(1920, 40)
        np.testing.assert_allclose(logits[-1], expected([[5]])[0], atol=1e-5)
        assert peak_bytes(own) - before < 8 * size

    def test_one_byte_more_than_the_limit_is_told_by_its_name(self, server: RunningServer) -> None:
        head_only = head("POST", f"{RNN}/infer", f"content-length: {(64 << 20) + 1}")
        answer = ask(server.rest, head_only)
        assert answer.status == 413
        assert "max_message_bytes" in answer.error


def peak_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def counted(server: RunningServer, code: str) -> float:
    """Requests over REST that ended with a code."""
    host, _, port = server.metrics.partition(":")
    connection = HTTPConnection(host, int(port))
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    labels = (f'code="{code}"', 'protocol="rest"', 'model="rnn-onnx"', "_requests_total{")
    return sum(float(line.split()[-1]) for line in lines if all(one in line for one in labels))


GOOD: dict[str, Any] = {"inputs": [tokens([5, 3], [1, 2])]}


def changed(**parts: object) -> dict[str, Any]:
    """The good request with another part of its tensor."""
    return {"inputs": [GOOD["inputs"][0] | parts]}


class TestBadRequests:
    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (b"", "body: got nothing"),
            (b"null", "body: got null"),
            (b"[]", "body: got array"),
            (b"5", "body: got int"),
            (b'"text"', "body: got str"),
            (b"{", "body: got no JSON"),
            (b"\xff\xfe", "body: got no JSON"),
            (b'{"inputs":[{"name":"\xff"}]}', "UTF-8"),
            (b"[" * 1_000_000, "body"),
            (b'{"a":' * 1_000_000, "nested too deeply"),
            (b'{"inputs":' + b"[" * 1_000_000, "inputs[0]"),
            ({}, "inputs: got nothing"),
            ({"inputs": None}, "inputs: got null"),
            ({"inputs": []}, "inputs.tokens: got nothing"),
            ({"inputs": [{}]}, "inputs[0].name: got nothing"),
            (changed(name="token"), "did you mean 'tokens'"),
            (changed(name="x" * 100_000), "100000 characters"),
            ({"inputs": GOOD["inputs"] * 2}, "inputs.tokens: got 2 times"),
            (GOOD | {"outputs": [{"name": "logit"}]}, "did you mean 'logits'"),
            (GOOD | {"outputs": [{"name": "logits"}] * 2}, "outputs.logits: got 2 times"),
            (changed(datatype="INT32"), "inputs.tokens.datatype: got INT32, expected INT64"),
            (changed(datatype="NONE"), "inputs.tokens.datatype: got NONE"),
            (changed(datatype=None), "inputs[0].datatype: got null"),
            (changed(shape=[1, "2"]), "inputs[0].shape[1]: got str, expected int"),
            (changed(shape=[1, 2.0]), "inputs[0].shape[1]: got float, expected int"),
            (changed(shape=[1, -2]), "inputs.tokens.shape: got shape [1, -2]"),
            (changed(shape=[1, 3]), "inputs.tokens.data: got 2 elements, expected 3"),
            (changed(shape=[2**40, 2**40]), "inputs.tokens.shape"),
            (changed(shape=[2**70, 1]), "inputs[0].shape[0]"),
            (changed(shape=[2]), "rank 1"),
            (changed(shape=[1, 2, 1]), "rank 3"),
            (changed(data=[5, 3.5]), "inputs.tokens.data[1]: got 3.5"),
            (changed(data=[True, 3]), "inputs.tokens.data[0]: got true"),
            (changed(data=["5", "3"]), "inputs.tokens.data: got strings"),
            (changed(data=[5, 2**64]), "inputs.tokens.data[1]: got 18446744073709551616"),
            (changed(data=[[5], [3, 4]]), "inputs.tokens.data: got 3 elements"),
            (changed(data=[5, float("nan")]), "NaN and infinity are not JSON"),
            (changed(data=[5, 40_000]), "inputs.tokens"),
            (changed(data=None), "inputs.tokens.data: got 0 forms"),
            (changed(shape=[1, 0], data=[]), "inputs.tokens.shape: got 0 positions"),
            (changed(shape=[1, 5_000], data=[5] * 5_000), "length 5000"),
            (changed(parameters={"binary_data_size": 16}), "inputs.tokens.data: got 2 forms"),
            (changed(data=None, parameters={"binary_data_size": 16}), "binary_data_size: got 16"),
            (changed(data=None, parameters={"shared_memory_region": "r"}), "byte_size"),
            (GOOD | {"parameters": {"timeout": "soon"}}, "parameters.timeout: got 'soon'"),
            (GOOD | {"parameters": {"priority": -1}}, "parameters.priority: got -1"),
            (GOOD | {"parameters": {"timeout": 2**70}}, "parameters.timeout"),
            (GOOD | {"parameters": {"binary_data_output": 1}}, "binary_data_output: got 1"),
            (GOOD | {"id": 5}, "id: got int"),
        ],
    )
    def test_each_is_told_what_came_and_what_was_expected(
        self, server: RunningServer, body: object, told: str
    ) -> None:
        answer = call(server.rest, "POST", f"{RNN}/infer", body)
        assert answer.status == 400, answer.body[:200]
        assert told in answer.error
        assert "expected" in answer.error
        assert call(server.rest, "POST", f"{RNN}/infer", GOOD).status == 200

    @pytest.mark.parametrize("value", ["-1", "x", "1e3", "999999", "9" * 5_000, ""])
    def test_header_values_that_are_no_length(self, server: RunningServer, value: str) -> None:
        body = json.dumps(GOOD).encode()
        answer = ask(server.rest, post(f"{RNN}/infer", body, f"{HEADER}: {value}"))
        assert answer.status == 400
        assert "Inference-Header-Content-Length" in answer.error

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v2/models/none/infer", 404),
            ("POST", f"{RNN}/versions/7/infer", 404),
            ("POST", f"{RNN}/versions/01/infer", 404),
            ("POST", f"{RNN}/versions/%C2%B2/infer", 404),
            ("POST", "/v2/models/%00%ff/infer", 404),
            ("POST", f"{RNN}/versions/{'9' * 5_000}/infer", 404),
            ("GET", "/v2/models/none", 404),
            ("GET", "/v2/models/none/ready", 404),
            ("GET", "/v2/models/none/config", 404),
            ("GET", "/v2/models/none/stats", 404),
            ("GET", f"{RNN}/versions/7/stats", 404),
            ("GET", f"{RNN}/versions/7/ready", 404),
            ("GET", "/v2/models/none/trace/setting", 404),
            ("POST", "/v2/repository/models/none/load", 404),
            ("POST", "/v2/repository/models/none/unload", 404),
            ("GET", "/v2/systemsharedmemory/region/none/status", 404),
            ("GET", f"{RNN}/infer", 405),
            ("POST", RNN, 405),
            ("GET", "/v2/repository/index", 405),
            ("GET", "/v2/cudasharedmemory/status", 501),
            ("GET", "/v2/cudasharedmemory/region/r/status", 501),
            ("POST", "/v2/cudasharedmemory/region/r/register", 501),
            ("POST", "/v2/cudasharedmemory/region/r/unregister", 501),
            ("POST", "/v2/cudasharedmemory/unregister", 501),
            ("GET", "/v2/nothing", 404),
        ],
    )
    def test_what_is_not_there(
        self, server: RunningServer, method: str, path: str, status: int
    ) -> None:
        answer = call(server.rest, method, path, GOOD if "infer" in path else {})
        assert (answer.status, bool(answer.error)) == (status, True)

    @pytest.mark.parametrize(
        ("path", "body", "told"),
        [
            ("/v2/repository/index", b"null", "body: got null"),
            ("/v2/repository/index", {"ready": "yes"}, "ready: got str"),
            ("/v2/repository/models/rnn-onnx/load", b"[]", "body: got array"),
            ("/v2/repository/models/rnn-onnx/load", {"parameters": {"config": {}}}, "config"),
            ("/v2/trace/setting", b"", "body: got nothing"),
            ("/v2/trace/setting", {"trace_rate": {}}, "trace_rate: got object"),
            ("/v2/trace/setting", {"unknown": "1"}, "unknown"),
            ("/v2/logging", {"log_info": "x"}, "log_info"),
            ("/v2/logging", {"log_verbose_level": -1}, "log_verbose_level"),
            ("/v2/systemsharedmemory/region/r/register", b"", "body: got nothing"),
            ("/v2/systemsharedmemory/region/r/register", {"key": "/none"}, "byte_size"),
            (
                "/v2/systemsharedmemory/region/r/register",
                {"key": "/etc/../none", "byte_size": 8},
                "key",
            ),
        ],
    )
    def test_control_calls_are_told_as_well(
        self, server: RunningServer, path: str, body: object, told: str
    ) -> None:
        answer = call(server.rest, "POST", path, body)
        assert answer.status == 400
        assert told in answer.error


class TestWhatClientsAsk:
    def test_health(self, server: RunningServer, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rnn-onnx")
        assert client.is_model_ready("rnn-onnx", "1")
        assert not client.is_model_ready("rnn-onnx", "7")
        assert not client.is_model_ready("none")
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert call(server.rest, "GET", path).json == {"live": True, "ready": True}
            assert call(server.rest, "HEAD", path).status == 200
        assert call(server.rest, "GET", f"{RNN}/ready").json == {"name": "rnn-onnx", "ready": True}

    def test_the_server_and_its_models(
        self, server: RunningServer, client: triton.InferenceServerClient
    ) -> None:
        metadata = client.get_server_metadata()
        assert metadata["name"] == "seqlens"
        assert "binary_tensor_data" in metadata["extensions"]
        model = client.get_model_metadata("rnn-onnx", "1")
        assert (model["name"], model["versions"]) == ("rnn-onnx", ["1"])
        assert model["inputs"][0] == {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}
        assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 40]}]
        config = client.get_model_config("rnn-onnx")
        assert config["max_batch_size"] == 32
        assert config["input"][0]["data_type"] == "TYPE_INT64"
        assert config["input"][0]["dims"] == [-1]
        assert config["input"][0]["allow_ragged_batch"] is False
        names = call(server.rest, "GET", "/v2/models").json["models"]
        index = client.get_model_repository_index()
        assert [one["name"] for one in index] == names
        assert len(names) == 6
        assert index[0] == {"name": names[0], "version": "1", "state": "READY", "reason": ""}
        again = call(server.rest, "POST", "/v2/repository/any/index", {"ready": True})
        assert again.json == index

    def test_statistics_count_what_was_answered(self, client: triton.InferenceServerClient) -> None:
        def counted() -> tuple[int, int]:
            (model,) = client.get_inference_statistics("rnn-onnx", "1")["model_stats"]
            assert model["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
            return model["inference_count"], model["inference_stats"]["success"]["count"]

        before = counted()
        client.infer("rnn-onnx", inputs())
        assert counted() == (before[0] + 3, before[1] + 1)
        one = client.get_inference_statistics("rnn-onnx")["model_stats"]
        everything = client.get_inference_statistics()["model_stats"]
        assert len(one) == 1
        assert len(everything) == 6

    def test_metrics_count_requests_by_protocol_and_code(self, own: RunningServer) -> None:
        before = counted(own, "OK"), counted(own, "INVALID_ARGUMENT")
        assert call(own.rest, "POST", f"{RNN}/infer", GOOD).status == 200
        assert call(own.rest, "POST", f"{RNN}/infer", b"{").status == 400
        after = counted(own, "OK"), counted(own, "INVALID_ARGUMENT")
        assert after == (before[0] + 1, before[1] + 1)


class TestWhatClientsChange:
    def test_models_are_unloaded_and_loaded(
        self, own: RunningServer, own_client: triton.InferenceServerClient
    ) -> None:
        own_client.unload_model("rnn-onnx", unload_dependents=True)
        assert not own_client.is_model_ready("rnn-onnx")
        answer = call(own.rest, "GET", f"{RNN}/ready")
        assert answer.status == 503
        assert "unloaded" in answer.error
        assert call(own.rest, "POST", f"{RNN}/infer", GOOD).status == 503
        (entry,) = own_client.get_model_repository_index()
        assert entry["state"] == "UNAVAILABLE"
        assert call(own.rest, "POST", "/v2/repository/index", {"ready": True}).json == []
        assert call(own.rest, "GET", "/v2/models").json == {"models": []}
        loaded = call(own.rest, "POST", "/v2/repository/any/models/rnn-onnx/load")
        assert (loaded.status, loaded.body) == (200, b"")
        own_client.load_model("rnn-onnx")
        assert own_client.is_model_ready("rnn-onnx")

    def test_files_of_models_are_not_taken(self, own_client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException) as caught:
            own_client.load_model("rnn-onnx", config="{}", files={"file:1/model.onnx": b"x"})
        assert caught.value.status() == "403"

    def test_trace_settings_for_all_and_for_one_model(
        self, own_client: triton.InferenceServerClient
    ) -> None:
        before = own_client.get_trace_settings()
        assert before["trace_level"] == ["OFF"]
        assert before["trace_rate"] == "1000"
        changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "5", "trace_count": "2"}
        after = own_client.update_trace_settings("rnn-onnx", changes)
        assert {name: after[name] for name in changes} == changes
        assert own_client.get_trace_settings("rnn-onnx") == after
        assert own_client.get_trace_settings() == before
        cleared = own_client.update_trace_settings("rnn-onnx", dict.fromkeys(changes))
        assert cleared == before

    def test_log_settings(self, own_client: triton.InferenceServerClient) -> None:
        before = own_client.get_log_settings()
        assert before["log_info"] is True
        after = own_client.update_log_settings({"log_info": False, "log_verbose_level": 1})
        assert after == before | {"log_info": False, "log_verbose_level": 1}
        assert own_client.get_log_settings() == after
        assert own_client.update_log_settings(before) == before

    def test_tensors_lie_in_shared_memory(self, client: triton.InferenceServerClient) -> None:
        array, size, key = padded([SEQUENCES[0]]), 40 * 4, f"/seqlens-rest-{os.getpid()}"
        region = shared_memory.create_shared_memory_region("tensors", key, 4096)
        try:
            shared_memory.set_shared_memory_region(region, [array])
            client.unregister_system_shared_memory()
            client.register_system_shared_memory("tensors", key, 2048)
            client.register_system_shared_memory("rest", key, 2048, offset=2048)
            assert client.get_system_shared_memory_status("rest") == [
                {"name": "rest", "key": key, "offset": 2048, "byte_size": 2048}
            ]
            names = [one["name"] for one in client.get_system_shared_memory_status()]
            assert names == ["rest", "tensors"]
            sent = triton.InferInput("tokens", list(array.shape), "INT64")
            sent.set_shared_memory("tensors", array.nbytes)
            wanted = triton.InferRequestedOutput("logits")
            wanted.set_shared_memory("rest", size, offset=8)
            (output,) = client.infer("rnn-onnx", [sent], outputs=[wanted]).get_response()["outputs"]
            assert output == {
                "name": "logits",
                "datatype": "FP32",
                "shape": [1, 40],
            }
            logits = shared_memory.get_contents_as_numpy(region, np.float32, [1, 40], 2048 + 8)
            np.testing.assert_allclose(logits, expected(SEQUENCES[:1]), atol=1e-5)
            client.unregister_system_shared_memory("rest")
            assert len(client.get_system_shared_memory_status()) == 1
            client.unregister_system_shared_memory()
            assert client.get_system_shared_memory_status() == []
        finally:
            shared_memory.destroy_shared_memory_region(region)
