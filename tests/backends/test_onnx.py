"""The ONNX Runtime backend keeps the contract, wires lengths in, and refuses with a reason."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import ModelProto, helper
from tests.backends.contract import BackendContract, Subject
from tests.support.onnx_models import (
    FLOAT,
    INT64,
    VOCABULARY,
    Recurrent,
    Transformer,
    built,
    export,
    masked,
    recurrent,
)

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.errors import BackendFailed, DeviceMissing, InvalidRequest, ModelRejected
from seqlens.graphs.anatomy import WIRED_FROM, AnatomyOverrides, InputOverride, InputRole
from seqlens.graphs.recurrence import LENGTHS_INPUT
from seqlens.graphs.trial import trial_inputs

CPU = LoadOptions(device=Device("cpu"))


def saved(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


class TestTransformer(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        path = tmp_path_factory.mktemp("transformer") / "model.onnx"
        return Subject(OnnxBackend(), saved(masked(Transformer(), torch.int64), path))


class TestBidirectionalRecurrent(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        path = tmp_path_factory.mktemp("lstm") / "model.onnx"
        return Subject(OnnxBackend(), saved(recurrent("LSTM", bidirectional=True), path))


def padded_difference(path: Path, options: LoadOptions) -> float:
    """Largest difference of a padded row to the same row alone, on its real positions."""
    engine = OnnxBackend().load(path, options)
    random = np.random.default_rng(0)
    batch = random.integers(1, VOCABULARY, (2, 11))
    single = batch[:1, :5].copy()
    lengths = {LENGTHS_INPUT: np.array([5, 11])} if engine.anatomy.input(LENGTHS_INPUT) else {}
    alone = {LENGTHS_INPUT: np.array([5])} if lengths else {}
    padded = engine.run({"x": batch, **lengths})["y"]
    return float(np.abs(padded[0, :5] - engine.run({"x": single, **alone})["y"][0]).max())


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_lengths_are_wired_in_unless_the_graph_is_wanted_as_exported(
    kind: str, tmp_path: Path
) -> None:
    path = saved(recurrent(kind, bidirectional=True), tmp_path / "model.onnx")
    assert padded_difference(path, replace(CPU, as_exported=True)) > 1e-2
    assert padded_difference(path, CPU) <= 1e-6


def test_a_known_anatomy_needs_no_probing_and_serves_the_same(tmp_path: Path) -> None:
    path = saved(recurrent("GRU", bidirectional=True), tmp_path / "model.onnx")
    first = OnnxBackend().load(path, CPU)
    assert WIRED_FROM in first.anatomy.details
    again = OnnxBackend().load(path, replace(CPU, anatomy=first.anatomy))
    assert again.anatomy == first.anatomy
    inputs = trial_inputs(first.anatomy, 2, 5)
    np.testing.assert_array_equal(first.run(inputs)["y"], again.run(inputs)["y"])


def test_lengths_are_not_wired_into_layers_that_run_over_something_else(tmp_path: Path) -> None:
    """A layer behind a pooling runs over half as many steps as there are positions."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Transpose", ["e"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("MaxPool", ["channels"], ["half"], kernel_shape=[2], strides=[2]),
        helper.make_node("Transpose", ["half"], ["steps"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "last"], hidden_size=3),
        helper.make_node("Squeeze", ["last", "first"], ["y"]),
    ]
    constants = {
        "table": random.standard_normal((9, 4)).astype(np.float32),
        "w": random.standard_normal((1, 12, 4)).astype(np.float32),
        "r": random.standard_normal((1, 12, 3)).astype(np.float32),
        "first": np.array([0]),
    }
    model = built(nodes, {"ids": (INT64, ["b", "t"])}, {"y": (FLOAT, ["b", 3])}, constants)
    engine = OnnxBackend().load(saved(model, tmp_path / "model.onnx"), CPU)
    assert [i.name for i in engine.anatomy.inputs] == ["ids"]
    assert any("could not be wired in" in finding for finding in engine.anatomy.findings)
    assert engine.run({"ids": np.ones((2, 8), np.int64)})["y"].shape == (2, 3)


def test_overrides_reach_the_anatomy(tmp_path: Path) -> None:
    path = saved(recurrent("LSTM", head="length"), tmp_path / "model.onnx")
    stated = AnatomyOverrides(inputs={"lengths": InputOverride(role=InputRole.OTHER)})
    engine = OnnxBackend().load(path, replace(CPU, overrides=stated))
    lengths = engine.anatomy.input("lengths")
    assert lengths is not None
    assert lengths.role is InputRole.OTHER


def test_weights_beside_the_file_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    model = recurrent("LSTM", bidirectional=True)
    expected = OnnxBackend().load(saved(model, tmp_path / "whole.onnx"), CPU)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir("/")
    engine = OnnxBackend().load(path, CPU)
    inputs = trial_inputs(expected.anatomy, 2, 5)
    np.testing.assert_array_equal(engine.run(inputs)["y"], expected.run(inputs)["y"])


@pytest.mark.parametrize(("cut", "reason"), [(None, "missing"), (10, "truncated")])
def test_lost_weights_are_named(cut: int | None, reason: str, tmp_path: Path) -> None:
    path, weights = tmp_path / "model.onnx", tmp_path / "weights.bin"
    onnx.save(
        recurrent(), path, save_as_external_data=True, location=weights.name, size_threshold=0
    )
    if cut is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-cut])
    with pytest.raises(ModelRejected, match=rf"weights\.bin.*{reason}"):
        OnnxBackend().load(path, CPU)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", r"name it model\.pt"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"just some words", "does not parse|holds no graph"),
        (b"\x00" * 100, "does not parse|holds no graph"),
        (b"\x08\x08", "holds no graph"),
    ],
)
def test_foreign_files_are_refused_with_a_reason(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelRejected, match=rf"model\.onnx.*({reason})"):
        OnnxBackend().load(path, CPU)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(kept: float, tmp_path: Path) -> None:
    content = recurrent().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelRejected, match=r"model\.onnx"):
        OnnxBackend().load(path, CPU)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="is not a file"):
        OnnxBackend().load(tmp_path / "model.onnx", CPU)


@pytest.mark.parametrize(
    ("operator", "domain", "opset", "reason"),
    [("Relu", "", 99, "opset"), ("Frobnicate", "com.example", 17, "Frobnicate")],
)
def test_what_the_runtime_does_not_know_is_named(
    operator: str, domain: str, opset: int, reason: str, tmp_path: Path
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    shape = (FLOAT, ["b", "t", 4])
    model = built([node], {"x": shape}, {"y": shape}, opset=opset)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(ModelRejected, match=f"(?i){reason}"):
        OnnxBackend().load(saved(model, tmp_path / "model.onnx"), CPU)


def test_a_failing_run_gives_the_reason_without_paths(tmp_path: Path) -> None:
    engine = OnnxBackend().load(saved(recurrent(), tmp_path / "model.onnx"), CPU)
    inputs: dict[str, Any] = trial_inputs(engine.anatomy, 1, 4)
    with pytest.raises(BackendFailed, match="refuses") as caught:
        engine.run({**inputs, "x": np.full((1, 4), 1_000)})
    assert "1000" in str(caught.value)
    assert "/" not in str(caught.value).replace("idx=", "")
    engine.run(inputs)


def test_a_closed_engine_does_not_run(tmp_path: Path) -> None:
    engine = OnnxBackend().load(saved(recurrent(), tmp_path / "model.onnx"), CPU)
    engine.close()
    with pytest.raises(BackendFailed, match="closed"):
        engine.run(trial_inputs(engine.anatomy, 1, 4))


def test_a_device_that_is_not_there_is_refused_with_advice(tmp_path: Path) -> None:
    path = saved(recurrent(), tmp_path / "model.onnx")
    with pytest.raises(DeviceMissing, match="cuda:77 is not available to ONNX Runtime"):
        OnnxBackend().load(path, replace(CPU, device=Device("cuda", 77)))


def test_loading_and_failing_write_nothing_to_the_console(tmp_path: Path) -> None:
    path = saved(recurrent("RNN", bidirectional=True), tmp_path / "model.onnx")
    script = f"""
import numpy
from pathlib import Path
from seqlens.backends.base import LoadOptions
from seqlens.backends.onnx import OnnxBackend
engine = OnnxBackend().load(Path({str(path)!r}), LoadOptions())
try:
    engine.run({{"x": numpy.full((1, 4), 999), "seqlens_lengths": numpy.array([4])}})
except Exception:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_recurrent_layers_in_float16_do_not_take_the_process_down(tmp_path: Path) -> None:
    model = export(Recurrent("GRU").half(), [torch.ones(2, 5, dtype=torch.int64)], ["x"])
    onnx.save(model, tmp_path / "model.onnx")
    script = (
        "import sys; from pathlib import Path; from seqlens.backends.base import LoadOptions; "
        "from seqlens.backends.onnx import OnnxBackend; "
        "print(OnnxBackend().load(Path(sys.argv[1]), LoadOptions()).anatomy.precision)"
    )
    program = [sys.executable, "-c", script, str(tmp_path / "model.onnx")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "fp16"), done.stderr


def test_importing_the_backend_imports_no_runtime() -> None:
    script = (
        "import seqlens.backends.onnx, sys; "
        "assert not {'onnx', 'onnxruntime', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_versions_are_those_of_what_computes() -> None:
    assert {"onnxruntime", "onnx"} <= set(OnnxBackend().versions())


def test_texts_reach_the_model_as_they_are(tmp_path: Path) -> None:
    """ONNX Runtime itself takes bytes for what Python prints of them."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    texts (string[batch, 2] x) => (string[batch, 2] y) { y = Identity(x) }
    """
    path = saved(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    engine = OnnxBackend().load(path, CPU)
    texts = np.array([["naïve".encode(), b""], ["a\0b", "名"]], object)
    assert engine.run({"x": texts})["y"].tolist() == [["naïve", ""], ["a\0b", "名"]]
    assert engine.run({"x": texts[:0]})["y"].shape == (0, 2)
    with pytest.raises(InvalidRequest) as caught:
        engine.run({"x": np.array([[b"\xff", b""]], object)})
    assert caught.value.field == "inputs.x"
