"""ONNX models opened up: what every opened model keeps, and what only ONNX has."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.backends.tapped_contract import Opened, TappedContract
from tests.support import onnx_models as models
from tests.support.onnx_opened import serve

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx_engine import load
from seqlens.backends.tapped import Look
from seqlens.errors import ModelRejected, NotInModel


@pytest.fixture(scope="module")
def transformer() -> onnx.ModelProto:
    torch.manual_seed(0)
    return models.masked(models.Transformer(), torch.int64)


class TestOnnxTapped(TappedContract):
    @pytest.fixture
    def opened(self, transformer: onnx.ModelProto, tmp_path: Path) -> Opened:
        return Opened.of(serve(transformer, tmp_path))


@pytest.fixture
def opened(transformer: onnx.ModelProto, tmp_path: Path) -> Iterator[Opened]:
    one = Opened.of(serve(transformer, tmp_path))
    yield one
    one.tapped.close()


def test_the_plain_answer_is_the_same_to_the_last_bit(opened: Opened) -> None:
    inputs = opened.inputs(2, 9)
    seen = opened.tapped.run(inputs, Look(opened.sites))
    np.testing.assert_array_equal(seen.outputs["y"], opened.engine.run(inputs)["y"])


def test_a_file_that_changed_is_not_opened(transformer: onnx.ModelProto, tmp_path: Path) -> None:
    serving = serve(transformer, tmp_path)
    os.utime(tmp_path / "model.onnx", ns=(1, 1))
    with pytest.raises(ModelRejected, match="changed since it was loaded"):
        serving.tapped()


def test_a_file_that_is_gone_or_no_model_is_to_be_reloaded(
    transformer: onnx.ModelProto, tmp_path: Path
) -> None:
    serving, path = serve(transformer, tmp_path), tmp_path / "model.onnx"
    for change in (lambda: path.write_bytes(b"no model"), path.unlink):
        change()
        with pytest.raises(ModelRejected, match=r"^model\.onnx has changed.*: reload") as caught:
            serving.tapped()
        assert str(tmp_path) not in str(caught.value), "callers need not know where it lies"


def test_weights_in_external_data_are_found(transformer: onnx.ModelProto, tmp_path: Path) -> None:
    path, copied = tmp_path / "model.onnx", onnx.ModelProto()
    copied.CopyFrom(transformer)  # saving moves the weights out of the model itself
    onnx.save(
        copied,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
        convert_attribute=False,
    )
    one = Opened.of(load(path, LoadOptions(device=Device("cpu"))))
    inputs = one.inputs()
    seen = one.tapped.run(inputs, Look(one.sites, embedding=True, hidden=True))
    np.testing.assert_array_equal(seen.outputs["y"], one.engine.run(inputs)["y"])
    os.utime(tmp_path / "weights.bin", ns=(1, 1))
    with pytest.raises(ModelRejected, match="changed"):
        one.engine.tapped()


def test_lengths_are_wired_into_the_opened_graph_too(tmp_path: Path) -> None:
    one = Opened.of(serve(models.recurrent("GRU", bidirectional=True), tmp_path))
    assert one.engine.anatomy.rewritten
    inputs = one.inputs(2, 6)
    inputs["seqlens_lengths"] = np.array([6, 4])
    seen = one.tapped.run(inputs, Look(recurrences=True, hidden=True))
    np.testing.assert_array_equal(seen.outputs["y"], one.engine.run(inputs)["y"])
    assert [trace.lengths for trace in seen.recurrences] == [(6, 4)] * 4


def test_features_are_their_own_vectors(tmp_path: Path) -> None:
    one = Opened.of(serve(models.recurrent("LSTM", ids=False), tmp_path))
    inputs = one.inputs(2, 5)
    seen = one.tapped.run(inputs, Look(embedding=True))
    assert seen.embedding is not None
    np.testing.assert_array_equal(seen.embedding, inputs["x"])
    delta = np.ones_like(inputs["x"])
    moved = one.tapped.run(inputs, Look(delta=delta)).outputs
    expected = one.engine.run({**inputs, "x": inputs["x"] + delta})
    np.testing.assert_array_equal(moved["y"], expected["y"])


def test_ids_without_a_table_have_no_embedding(tmp_path: Path) -> None:
    ids = onnx.helper.make_node("Cast", ["x"], ["f"], to=models.FLOAT)
    out = onnx.helper.make_node("ReduceSum", ["f"], ["y"], axes=[1], keepdims=0)
    shape = ["b", "t"]
    model = models.built(
        [ids, out], {"x": (models.INT64, shape)}, {"y": (models.FLOAT, ["b"])}, opset=12
    )
    one = Opened.of(serve(model, tmp_path))
    with pytest.raises(NotInModel, match="no embedding"):
        one.tapped.run(one.inputs(), Look(embedding=True))
    with pytest.raises(NotInModel, match="one vector a position"):
        one.tapped.run(one.inputs(), Look(hidden=True))


def test_more_choices_than_sessions_are_answered_all_the_same(opened: Opened) -> None:
    inputs, plain = opened.inputs(), opened.engine.run(opened.inputs())
    looks = [
        *(Look((site,), embedding=flag) for site in opened.sites for flag in (False, True)),
        Look(hidden=True),
        Look(),
    ]
    for look in looks * 2:
        seen = opened.tapped.run(inputs, look)
        np.testing.assert_array_equal(seen.outputs["y"], plain["y"])
        assert set(seen.weights) == set(look.sites)


def kernel() -> onnx.ModelProto:
    """Ids looked up and mixed by one Attention kernel of two heads."""
    nodes = [
        onnx.helper.make_node("Gather", ["table", "tokens"], ["v"]),
        onnx.helper.make_node(
            "Attention", ["v", "v", "v"], ["z"], "kernel", q_num_heads=2, kv_num_heads=2
        ),
        onnx.helper.make_node("ReduceMean", ["z", "axis"], ["y"], keepdims=0),
    ]
    constants = {
        "table": np.random.default_rng(0).standard_normal((models.VOCABULARY, 8)).astype("f"),
        "axis": np.array([1]),
    }
    model = models.built(
        nodes,
        {"tokens": (models.INT64, ["b", "t"])},
        {"y": (models.FLOAT, ["b", 8])},
        constants,
        opset=23,
    )
    model.ir_version = 10
    return model


def test_weights_of_a_kernel_times_its_values_are_its_output(
    opened: Opened, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fused = Opened.of(serve(kernel(), tmp_path_factory.mktemp("fused")))
    inputs = fused.inputs()
    weights = fused.tapped.run(inputs, Look(("kernel",))).weights["kernel"]
    assert weights.shape == (3, 2, 7, 7)
    error = fused.tapped.product_error(inputs, "kernel")
    assert error is not None
    assert 0 < error < 1e-6
    assert opened.tapped.product_error(opened.inputs(), opened.sites[0]) is None
    with pytest.raises(NotInModel, match="absent"):
        fused.tapped.product_error(inputs, "absent")


def test_there_is_no_gradient(opened: Opened) -> None:
    inputs = opened.inputs()
    assert opened.tapped.gradient(inputs, "y", opened.engine.run(inputs)["y"]) is None
