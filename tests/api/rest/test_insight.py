"""Looking inside models over REST, at real models behind a real socket."""

import json
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import pytest
from tests.conftest import RunningServer, StartServer
from tests.support.browsers import chromium
from tests.support.http_wire import WireAnswer, ask, post, wire

from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub

MODEL = "transformer-onnx"
SEQUENCES = [[5, 3, 9], [7], list(range(2, 40))]
LINES = "accept: application/x-ndjson"


def look(address: str, what: str, body: object, *lines: str, model: str = MODEL) -> WireAnswer:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(address, post(f"/v1/models/{model}/{what}", text, *lines))


@pytest.fixture(scope="module")
def stub(target: str) -> Iterator[SequenceServiceStub]:
    with grpc.insecure_channel(target) as channel:
        yield SequenceServiceStub(channel)


def packed(sequences: list[list[int]]) -> pb.Sequences:
    tokens = np.concatenate([np.int64(one) for one in sequences])
    lengths = [len(one) for one in sequences]
    one = pb.RaggedTensor(datatype="INT64", rows=len(lengths), rank=1, shapes=lengths,
                          values=tokens.tobytes())  # fmt: skip
    return pb.Sequences(inputs=[one])


def test_maps_and_measures_are_those_of_grpc(
    server: RunningServer, stub: SequenceServiceStub
) -> None:
    selection = {"layers": [-1], "heads": [1, 4], "query_start": -1, "key_start": -1, "top_k": 2}
    request = pb.ExtractAttentionRequest(
        model_name=MODEL, sequences=packed(SEQUENCES), selection=selection, with_measures=True,
        share_positions=[0],
    )  # fmt: skip
    messages = list(stub.ExtractAttention(request))
    expected = [one for message in messages[1:] for one in message.layer.maps]
    body = {"sequences": SEQUENCES, "selection": selection, "with_measures": True,
            "share_positions": [0], "id": "ü"}  # fmt: skip
    answer = look(server.rest, "attention", body).json
    assert (answer["model"], answer["version"], answer["id"]) == (MODEL, "1", "ü")
    assert [one["length"] for one in answer["sequences"]] == [3, 1, 38]
    assert [one["name"] for one in answer["sites"]] == [messages[0].header.sites[0].name]
    (layer,) = answer["layers"]
    assert layer["site"]["proof"]["proved"]
    assert layer["site"]["measured"]
    maps = sorted(layer["maps"], key=lambda one: one["sequence"])
    expected.sort(key=lambda one: one.sequence)
    for told, message in zip(maps, expected, strict=True):
        shape = (2, message.queries, message.keys)
        assert (told["query_start"], told["queries"], told["keys"]) == (
            message.query_start, message.queries, message.keys,
        )  # fmt: skip
        weights = np.frombuffer(message.weights, "<f4").reshape(shape)
        np.testing.assert_allclose(told["weights"], weights, atol=1e-6)
        positions = np.frombuffer(message.key_positions, "<i4").reshape(shape)
        np.testing.assert_array_equal(told["key_positions"], positions)
        np.testing.assert_allclose(told["measures"]["entropy"], message.measures.entropy, atol=1e-5)
        np.testing.assert_allclose(told["measures"]["share"], message.measures.share, atol=1e-5)


def test_rows_sum_to_one_and_plain_outputs_are_those_of_a_plain_request(
    server: RunningServer,
) -> None:
    body = {"sequences": SEQUENCES, "with_outputs": True}
    answer = look(server.rest, "attention", body).json
    assert len(answer["layers"]) == 2
    for layer in answer["layers"]:
        for one in layer["maps"]:
            weights = np.float64(one["weights"])
            assert weights.shape == (8, *[len(SEQUENCES[one["sequence"]])] * 2)
            np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    plain = look(server.rest, "process", {"sequences": SEQUENCES}).json["results"]
    for told, expected in zip(answer["answers"], plain, strict=True):
        assert told["label"] == expected["label"]
        np.testing.assert_allclose(told["outputs"]["logits"], expected["outputs"]["logits"],
                                   atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("datatype", ["FP16", "UINT8"])
def test_weights_come_in_the_datatype_asked_for(server: RunningServer, datatype: str) -> None:
    exact = look(server.rest, "attention", {"sequence": SEQUENCES[0]}).json
    body = {"sequence": SEQUENCES[0], "selection": {"datatype": datatype}}
    told = look(server.rest, "attention", body).json["layers"][0]["maps"][0]
    assert told["datatype"] == datatype
    weights = np.float64(told["weights"]) / (255 if datatype == "UINT8" else 1)
    tolerance = 2e-3 if datatype == "FP16" else 0.5 / 255 + 1e-6
    np.testing.assert_allclose(weights, exact["layers"][0]["maps"][0]["weights"], atol=tolerance)


def test_lines_tell_what_the_whole_answer_tells(server: RunningServer) -> None:
    body = {"sequences": ["the kitten", [3, 4]], "with_outputs": True}
    whole = look(server.rest, "attention", body).json
    answer = look(server.rest, "attention", body, LINES)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [list(line) for line in lines] == [["header"], ["layer"], ["layer"], ["answers"]]
    assert lines[0]["header"]["sequences"] == whole["sequences"]
    assert lines[0]["header"]["predicted_bytes"] == whole["predicted_bytes"] == 8 * 2 * 4 * 8
    assert [line["layer"] for line in lines[1:3]] == whole["layers"]
    assert [one["label"] for one in lines[3]["answers"]] == [
        one["label"] for one in whole["answers"]
    ]


def test_arrays_come_for_numpy(server: RunningServer) -> None:
    body = {"sequences": SEQUENCES, "selection": {"layers": [1]}}
    expected = look(server.rest, "attention", body).json["layers"][0]["maps"]
    for way in ({"format": "npz"}, {}):
        answer = look(server.rest, "attention", body | way, "accept: application/zip;q=0.5")
        assert answer.headers["content-type"] == "application/x-npz"
        with np.load(BytesIO(answer.body), allow_pickle=False) as file:
            for one in expected:
                weights = file[f"layer1/sequence{one['sequence']}/weights"]
                assert weights.dtype == np.float32
                np.testing.assert_allclose(weights, one["weights"], atol=1e-7)
            assert json.loads(str(file["header"]))["model"] == MODEL


def test_bertviz_gets_a_map_a_layer_and_tokens(server: RunningServer) -> None:
    body = {"sequences": ["the kitten ate", [99999]], "format": "bertviz"}
    answer = look(server.rest, "attention", body).json
    good, bad = answer["sequences"]
    assert good["tokens"] == ["the", "kitten", "ate"]
    assert np.shape(good["attention"]) == (2, 1, 8, 3, 3)
    assert bad["error"]["field"] == "inputs.tokens[0]"
    refused = look(server.rest, "attention", body | {"selection": {"last_query": True}})
    assert refused.status == 400
    assert refused.json["field"] == "format"


@pytest.mark.parametrize("model", ["rnn-onnx", "lstm-torchscript", MODEL])
def test_influence_has_shares_values_and_floors(server: RunningServer, model: str) -> None:
    body = {"sequences": ["the kitten was calm because it ate", [99999]],
            "measures": ["occlusion", "jacobian"], "target": {"predicted_class": True}}  # fmt: skip
    answer = look(server.rest, "influence", body, model=model).json
    assert answer["target"]["predicted_class"]
    assert answer["sequences"][1]["error"]["code"] == "INVALID_ARGUMENT"
    assert [one["measure"] for one in answer["maps"]] == ["occlusion", "jacobian"]
    for one in answer["maps"]:
        values, shares = np.float64(one["values"]), np.float64(one["shares"])
        assert values.shape == shares.shape == (1, 7)
        np.testing.assert_allclose(shares.sum(), 1, atol=1e-5)
        known = values > np.float64(one["floors"])[:, None]
        np.testing.assert_array_equal(shares > 0, known)
    assert answer["model_runs"] > 0


def test_influence_by_distance_is_null_where_nothing_is_known(
    server: RunningServer, stub: SequenceServiceStub
) -> None:
    body = {"sequences": SEQUENCES, "target": {"output": "hidden"}, "measures": ["jacobian"],
            "by_distance": True}  # fmt: skip
    answer = look(server.rest, "influence", body, model="rnn-onnx").json
    request = pb.MeasureInfluenceRequest(
        model_name="rnn-onnx", sequences=packed(SEQUENCES), target={"output": "hidden"},
        measures=["jacobian"], by_distance=True,
    )  # fmt: skip
    (expected,) = stub.MeasureInfluence(request).by_distance
    (told,) = answer["by_distance"]
    assert told["distances"] == list(expected.distances)
    assert told["counts"] == list(expected.counts)
    unknown = [value is None for value in told["mean_value"]]
    assert unknown == [bool(np.isnan(value)) for value in expected.mean_value]


def test_gates_are_those_of_grpc(server: RunningServer, stub: SequenceServiceStub) -> None:
    request = pb.ReadGatesRequest(
        model_name="lstm-onnx", sequences=packed(SEQUENCES), quantiles=[0.25], full=True
    )
    messages = [message.layer for message in stub.ReadGates(request) if message.HasField("layer")]
    body = {"sequences": SEQUENCES, "quantiles": [0.25], "full": True}
    answer = look(server.rest, "gates", body, model="lstm-onnx").json
    assert answer["quantiles"] == [0.25]
    for layer, message in zip(answer["layers"], messages, strict=True):
        assert (layer["cell"], layer["units"]) == ("lstm", message.units)
        for told, expected in zip(layer["gates"], message.gates, strict=True):
            assert (told["gate"], told["sequence"]) == (expected.gate, expected.sequence)
            values = np.frombuffer(expected.values, "<f4").reshape(-1, layer["units"])
            np.testing.assert_allclose(told["values"], values, atol=1e-6)
    lines = look(server.rest, "gates", body, LINES, model="lstm-onnx").body.splitlines()
    header, *layers = (json.loads(line) for line in lines)
    assert header["header"]["quantiles"] == [0.25]
    assert [line["layer"] for line in layers] == answer["layers"]


@pytest.mark.parametrize(
    ("what", "model"), [("attention", MODEL), ("influence", "rnn-onnx"), ("gates", "lstm-onnx")]
)
def test_a_page_of_a_real_model_is_shown_without_asking_anybody(
    server: RunningServer, browser: Any, what: str, model: str
) -> None:
    answer = look(server.rest, what, {"sequence": "the kitten ate", "format": "html"},
                  model=model)  # fmt: skip
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text))
    page.set_content(answer.body.decode())
    assert page.locator(".word").all_inner_texts()[:3] == ["the", "kitten", "ate"]
    assert [url for url in asked if not url.startswith("data:")] == []
    assert wrong == []
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(
    ("accept", "sent"),
    [
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("image/png", "application/json"),
        ("text/html;q=0, application/x-npz;q=0.2", "application/x-npz"),
        ("application/json;q=0.1, application/jsonl", "application/x-ndjson"),
        ("text/html;q=x", "application/json"),
    ],
)
def test_the_form_is_what_is_accepted(server: RunningServer, accept: str, sent: str) -> None:
    answer = look(server.rest, "attention", {"sequence": [3]}, f"accept: {accept}")
    assert answer.headers["content-type"].split(";")[0] == sent


@pytest.mark.parametrize(
    ("what", "model", "field", "changed"),
    [
        ("attention", MODEL, "format", {"format": "xml"}),
        ("influence", MODEL, "format", {"format": "bertviz"}),
        ("attention", MODEL, "selection.datatype", {"selection": {"datatype": "FP64"}}),
        ("attention", MODEL, "selection.reduce_heads", {"selection": {"reduce_heads": "sum"}}),
        ("attention", MODEL, "selection.layers", {"selection": {"layers": [2]}}),
        ("attention", MODEL, "selection.sites", {"selection": {"sites": ["Softmax"]}}),
        ("attention", MODEL, "selection.heads", {"selection": {"heads": [8]}}),
        ("attention", MODEL, "selection.query_start", {"selection": {"query_start": 9}}),
        ("attention", MODEL, "selection.key_stop", {"selection": {"key_stop": 2**63}}),
        ("attention", MODEL, "selection.top_k", {"selection": {"top_k": -1}}),
        ("attention", MODEL, "selection.topk", {"selection": {"topk": 1}}),
        ("attention", MODEL, "share_positions", {"share_positions": [9], "with_measures": True}),
        ("attention", MODEL, "with_outputs", {"with_outputs": 1}),
        ("attention", MODEL, "timeout_seconds", {"timeout_seconds": 0}),
        ("attention", MODEL, "sequences", {"sequences": [[3]]}),
        ("attention", MODEL, "inputs.tokens[0]", {"sequence": [99999]}),
        ("attention", MODEL, "model_version", {"version": "7"}),
        ("influence", MODEL, "measures", {"measures": ["gradient"]}),
        ("influence", MODEL, "target.output", {"target": {"output": "logit"}}),
        ("influence", MODEL, "target.class_index", {"target": {"class_index": 40}}),
        ("influence", MODEL, "input_positions", {"input_positions": [3]}),
        ("influence", MODEL, "replacements", {"replacements": 2**32}),
        ("influence", MODEL, "replacement_tokens", {"replacement_tokens": [99999]}),
        ("gates", "lstm-onnx", "layers", {"layers": [5]}),
        ("gates", "lstm-onnx", "quantiles", {"quantiles": [1.5]}),
        ("gates", "lstm-onnx", "full", {"full": "yes"}),
    ],
)
def test_what_is_wrong_is_named(
    server: RunningServer, what: str, model: str, field: str, changed: Any
) -> None:
    answer = look(server.rest, what, {"sequence": [3, 4, 5]} | changed, model=model)
    assert answer.status == (404 if field == "model_version" else 400)
    assert answer.json["field"].startswith(field)
    assert answer.json["got"]
    assert answer.json["expected"]


@pytest.mark.parametrize(
    ("what", "model", "instead"),
    [
        ("attention", "lstm-onnx", "gates"),
        ("gates", "rnn-onnx", "influence"),
        ("gates", MODEL, "attention"),
    ],
)
def test_a_model_that_has_it_not_says_what_it_has(
    server: RunningServer, what: str, model: str, instead: str
) -> None:
    answer = look(server.rest, what, {"sequence": [3]}, LINES, model=model)
    assert answer.status == 422
    assert instead in answer.error


@pytest.mark.parametrize("what", ["attention", "influence", "gates"])
def test_wrong_sequences_cost_the_others_nothing(server: RunningServer, what: str) -> None:
    model = "lstm-onnx" if what == "gates" else MODEL
    good = look(server.rest, what, {"sequences": [[3, 4], [7]]}, model=model).json
    mixed = look(server.rest, what, {"sequences": [[99999], [3, 4], [], [7]]}, model=model).json
    assert [one["length"] for one in mixed["sequences"]] == [0, 2, 0, 1]
    errors = [one.get("error") for one in mixed["sequences"]]
    assert [error and error["code"] for error in errors] == [
        "INVALID_ARGUMENT", None, "INVALID_ARGUMENT", None,
    ]  # fmt: skip
    assert _seen(mixed) == [{**one, "sequence": 2 * one["sequence"] + 1} for one in _seen(good)]
    alone = look(server.rest, what, {"sequences": [[99999]]}, model=model)
    assert alone.status == 200
    assert _seen(alone.json) == []


@pytest.mark.parametrize(
    ("what", "field", "changed"),
    [
        ("attention", "selection.key_stop", {"selection": {"key_stop": 3}}),
        ("attention", "share_positions", {"share_positions": [-3]}),
        ("influence", "input_positions", {"input_positions": [2]}),
    ],
)
def test_positions_that_one_sequence_does_not_have_cost_the_others_nothing(
    server: RunningServer, what: str, field: str, changed: Any
) -> None:
    alone = look(server.rest, what, {"sequences": [[3, 4, 5]]} | changed).json
    mixed = look(server.rest, what, {"sequences": [[7], [3, 4, 5]]} | changed).json
    assert mixed["sequences"][0]["error"]["field"] == field
    assert "error" not in mixed["sequences"][1]
    assert _seen(mixed) == [{**one, "sequence": 1} for one in _seen(alone)]
    refused = look(server.rest, what, {"sequence": [7]} | changed)
    assert (refused.status, refused.json["field"]) == (400, field)


def _seen(answer: Any) -> list[Any]:
    if "maps" in answer:
        return list(answer["maps"])
    return [one for layer in answer["layers"] for one in layer.get("maps", layer.get("gates"))]


def test_an_unknown_model_is_told_before_the_body_is_read(server: RunningServer) -> None:
    answer = look(server.rest, "gates", b"no JSON", model="nope")
    assert answer.status == 404


@pytest.fixture(scope="module")
def small(repository: Any, serve_for_module: StartServer) -> RunningServer:
    """A server that draws little and sends less."""
    return serve_for_module(
        repository / MODEL, "--limits.max-message-bytes", "65536", "--insight.max-bytes", "1000000"
    )


def test_too_much_is_refused_with_what_would_fit(small: RunningServer) -> None:
    answer = look(small.rest, "attention", {"sequence": [3] * 140})
    assert answer.status == 400
    assert answer.json["field"] == "selection"
    assert "insight.max_bytes" in answer.error
    fitting = {"sequence": [3] * 140, "selection": {"layers": [0], "last_query": True}}
    assert look(small.rest, "attention", fitting).status == 200


def test_what_fits_no_message_comes_in_lines(small: RunningServer) -> None:
    body = {"sequence": [3] * 50}
    answer = look(small.rest, "attention", body)
    assert answer.status == 400
    assert "limits.max_message_bytes" in answer.error
    assert "application/x-ndjson" in answer.error
    lines = look(small.rest, "attention", body, LINES).body.splitlines()
    assert sum("layer" in json.loads(line) for line in lines) == 2


def test_a_client_that_hangs_up_holds_nothing(small: RunningServer) -> None:
    text = json.dumps({"sequence": [3] * 200, "target": {"output": "hidden"}}).encode()
    for _ in range(3):
        with wire(small.rest) as connection:
            connection.send(post(f"/v1/models/{MODEL}/influence", text))
    answer = look(small.rest, "attention", {"sequence": [3, 4]})
    assert answer.status == 200
    with urllib.request.urlopen(f"http://{small.metrics}/metrics") as metrics:
        lines = metrics.read().decode().splitlines()
    counts = [float(line.split()[-1]) for line in lines if 'method="influence"' in line
              and 'code="CANCELLED"' in line and "_total{" in line]  # fmt: skip
    assert sum(counts) == 3, "they were counted as cancelled"
