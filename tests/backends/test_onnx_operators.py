"""The ONNX project's own cases for LSTM, GRU and RNN, through inspection and the engine."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx.backend.test.case import node as cases

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.errors import ModelRejected


def collected() -> dict[str, Any]:
    for name in ("lstm", "gru", "rnn"):
        importlib.import_module(f"{cases.__name__}.{name}")
    prefixes = ("test_lstm", "test_gru", "test_rnn", "test_simple_rnn")
    return {c.name: c for c in cases._NodeTestCases if c.name.startswith(prefixes)}


CASES = collected()


def with_weights_inside(case: Any) -> tuple[ModelProto, np.ndarray]:
    """The model with all inputs but the sequence itself as weights, and that sequence."""
    model = ModelProto()
    model.CopyFrom(case.model)
    (first, *weights), _ = case.data_sets[0]
    names = [value.name for value in model.graph.input]
    for name, array in zip(names[1:], weights, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    del model.graph.input[1:]
    return model, np.asarray(first)


def test_all_cases_were_collected() -> None:
    assert len(CASES) == 18


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    model, x = with_weights_inside(CASES[name])
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    options = LoadOptions(Device("cpu"), as_exported=True)
    if "batchwise" in name:
        with pytest.raises(ModelRejected, match=r"layout 0"):
            OnnxBackend().load(path, options)
        return
    engine = OnnxBackend().load(path, options)
    (layer,) = engine.anatomy.recurrent_layers
    (node,) = (n for n in model.graph.node if n.op_type in ("LSTM", "GRU", "RNN"))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert layer.cell == node.op_type.lower()
    assert layer.hidden_size == attributes["hidden_size"]
    assert layer.direction == attributes.get("direction", b"forward").decode()
    assert layer.input_size == x.shape[2]
    answers = engine.run({model.graph.input[0].name: x})
    expected = CASES[name].data_sets[0][1]
    for answer, array in zip(answers.values(), expected, strict=True):
        np.testing.assert_allclose(answer, array, rtol=1e-3, atol=1e-5)
