"""A repository of Triton Inference Server, served as it is and asked by Triton's own client."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tests.support.onnx_models import CLASSES, recurrent
from tests.support.torchscript_modules import Recurrent, made, quiet
from tritonclient.utils import InferenceServerException

from seqlens.cli.inspection import show_anatomy
from seqlens.cli.verification import show_proof
from seqlens.errors import ModelRejected
from seqlens.repository.triton import from_triton, parse_triton_json
from seqlens_client import Client

ONNX = """
name: "words"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_INT64 dims: [ -1 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 5 ] label_filename: "classes.txt" }]
version_policy: { all { } }
instance_group [{ kind: KIND_CPU count: 4 }]
dynamic_batching { max_queue_delay_microseconds: 100 }
"""
# The names that the PyTorch backend of Triton asks for; the file has tokens and lengths.
TORCH = """
name: "script"
backend: "pytorch"
max_batch_size: 4
input [
  { name: "INPUT__0" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "INPUT__1" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } }
]
output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 5 ] }
"""
WHOLE = """
input { name: "x" data_type: TYPE_INT64 dims: [ -1, -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1, 5 ] }
default_model_filename: "net.onnx"
dynamic_batching { default_queue_policy { default_timeout_microseconds: 1 max_queue_size: 7 } }
"""
DECLARED = {
    "words": [("x", "INT64", (-1, -1))],
    "script": [("INPUT__0", "INT64", (-1, -1)), ("INPUT__1", "INT64", (-1,))],
    "whole": [("x", "INT64", (-1, -1))],
}
BROKEN = {
    "another": ('name: "other"', "name is 'other', but the model's folder is called 'another'"),
    "typo": ("max_batch_sise: 4", "line 1: ModelConfig has no field 'max_batch_sise'"),
    "scripted": ('backend: "python"', "backend 'python' is not served"),
    "group": ('platform: "ensemble" ensemble_scheduling { }', "ensembles are not served"),
    "width": (
        'max_batch_size: 2 output { name: "y" dims: [ 7 ] }',
        "output 'y': dims are [7], but the file has [5] behind the batch axis",
    ),
    "kind": (
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }',
        "input 'x': data_type is FP32, but the file has INT64",
    ),
    "planned": ("", "found model.plan"),
    "naming": ('input { name: "z" }', "input 'z' is not in the file, which has x"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people have on disk for Triton, things that nobody serves included."""
    root = tmp_path_factory.mktemp("triton")
    words, script, whole = root / "words", root / "script", root / "whole"
    model = recurrent("LSTM", head="last")
    for version in (words / "1", words / "2"):
        version.mkdir(parents=True)
        onnx.save(model, version / "model.onnx")
    (words / "config.pbtxt").write_text(ONNX)
    (words / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    (script / "1").mkdir(parents=True)
    torch.manual_seed(3)
    with quiet():
        torch.jit.save(made(Recurrent()), script / "1" / "model.pt")
    (script / "config.pbtxt").write_text(TORCH)
    (whole / "1").mkdir(parents=True)
    onnx.save(model, whole / "1" / "net.onnx")
    onnx.save(model, whole / "1" / "old.onnx")
    (whole / "config.pbtxt").write_text(WHOLE)
    for name, (text, _) in BROKEN.items():
        (root / name / "1").mkdir(parents=True)
        onnx.save(model, root / name / "1" / "model.onnx")
        (root / name / "config.pbtxt").write_text(text)
    (root / "planned" / "1" / "model.onnx").rename(root / "planned" / "1" / "model.plan")
    (root / "README.md").write_text("our models")
    (words / "1" / "model.plan").write_bytes(b"ptrt")
    for extra in ("configs", "warmup", "initial_state"):
        (words / extra).mkdir()
        (words / extra / "some.pbtxt").write_text("nonsense")
    return root


@pytest.fixture(scope="module")
def target(folder: Path, serve_for_module: Any) -> str:
    return str(serve_for_module(folder).grpc)


@pytest.fixture(scope="module")
def client(target: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(target)


def given(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), "INT64")
    tensor.set_data_from_numpy(array)
    return tensor


TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
LENGTHS = np.array([[5], [3]])


def test_metadata_and_config_say_what_config_pbtxt_says(client: Any) -> None:
    metadata = client.get_model_metadata("words", as_json=True)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "INT64", "shape": ["-1", "-1"]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "5"]}]
    config = client.get_model_config("words").config
    assert config.max_batch_size == 8
    assert [(i.name, list(i.dims)) for i in config.input] == [("x", [-1])]
    assert [(o.name, list(o.dims)) for o in config.output] == [("y", [5])]
    assert config.output[0].label_filename == "classes.txt"
    assert config.HasField("dynamic_batching")
    assert not config.HasField("sequence_batching")


def test_whole_shapes_stay_whole(client: Any) -> None:
    config = client.get_model_config("whole").config
    assert config.max_batch_size == 0
    assert [list(i.dims) for i in config.input] == [[-1, -1]]
    assert [list(o.dims) for o in config.output] == [[-1, 5]]


def test_torchscript_answers_under_the_names_of_config_pbtxt(client: Any, folder: Path) -> None:
    config = client.get_model_config("script").config
    assert config.max_batch_size == 4
    declared = [(i.name, list(i.dims), list(i.reshape.shape)) for i in config.input]
    assert declared == [("INPUT__0", [-1], []), ("INPUT__1", [1], [])]
    answer = client.infer("script", [given("INPUT__0", TOKENS), given("INPUT__1", LENGTHS)])
    with quiet(), torch.inference_mode():
        module = torch.jit.load(str(folder / "script" / "1" / "model.pt"))
        expected = module(torch.tensor(TOKENS), torch.tensor(LENGTHS[:, 0])).numpy()
    np.testing.assert_allclose(answer.as_numpy("OUTPUT__0"), expected, atol=1e-4)


def test_the_names_of_the_file_are_names_no_more(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="INPUT__0"):
        client.infer("script", [given("tokens", TOKENS), given("lengths", LENGTHS)])


def test_classes_have_the_labels_of_label_filename(client: Any) -> None:
    asked = triton.InferRequestedOutput("y", class_count=2)
    best = client.infer("words", [given("x", TOKENS)], outputs=[asked]).as_numpy("y")
    values = client.infer("words", [given("x", TOKENS)]).as_numpy("y")
    assert best.shape == (2, 2)
    for row, written in zip(values, best, strict=True):
        index = int(np.argmax(row))
        assert written[0].decode().split(":")[1:] == [str(index), "abcde"[index]]


def test_requests_without_a_timeout_have_that_of_the_queue_policy(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("whole", [given("x", TOKENS)])
    answer = client.infer("whole", [given("x", TOKENS)], timeout=20_000_000)
    assert answer.as_numpy("y").shape == (2, CLASSES)


def test_notes_are_told_by_describe_and_by_the_log(target: str, folder: Path) -> None:
    with Client(target) as ours:
        described = ours.describe("words")
    note = "config.pbtxt: instance_group count 4 has no counterpart: lanes are shared by all models"
    assert note in described.findings
    assert any("no work waits for a timer" in finding for finding in described.findings)


def test_broken_configurations_are_listed_with_reasons_while_others_serve(client: Any) -> None:
    index = {(m.name, m.version): m for m in client.get_model_repository_index().models}
    ready = {key for key, model in index.items() if model.state == "READY"}
    assert ready == {("words", "1"), ("words", "2"), ("script", "1"), ("whole", "1")}
    for name, (_, reason) in BROKEN.items():
        assert reason in index[name, "1"].reason


def test_a_published_configuration_is_one_that_can_be_loaded(client: Any) -> None:
    for name in ("words", "script", "whole"):
        published = client.get_model_config(name, as_json=True)["config"]
        again = from_triton(parse_triton_json(json.dumps(published), "request"), name=name)
        assert again.signature is not None
        assert [(t.name, t.datatype, t.shape) for t in again.signature.inputs] == DECLARED[name]


def test_inspect_honours_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_anatomy(folder / "words" / "1" / "model.onnx", as_json=True)
    assert "count 4" not in capsys.readouterr().out  # the file alone lies beside no configuration
    show_anatomy(folder / "script", as_json=True)
    assert [i["name"] for i in json.loads(capsys.readouterr().out)["inputs"]] == [
        "INPUT__0",
        "INPUT__1",
    ]
    show_anatomy(folder / "words", as_json=True)
    assert any("count 4" in one for one in json.loads(capsys.readouterr().out)["findings"])
    with pytest.raises(ModelRejected, match=r"width.*dims are \[7\]"):
        show_anatomy(folder / "width", as_json=False)


def test_verify_honours_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_proof(folder / "words", as_json=True)
    assert any("count 4" in note for note in json.loads(capsys.readouterr().out)["notes"])
    with pytest.raises(ModelRejected, match=r"typo.*has no field 'max_batch_sise'"):
        show_proof(folder / "typo", as_json=False)
