"""Traces of recurrent operators: their equations, run again in numpy, give the same states."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from tests.support import onnx_models as models
from tests.support.numpy_recurrent import GATES, Direction
from tests.support.onnx_opened import open_onnx

from seqlens.backends.tapped import Look, RecurrentTrace
from seqlens.errors import NotInModel
from seqlens.sequences import Array

LENGTHS = (7, 4, 1)
UNITS = 5


def recomputed(trace: RecurrentTrace) -> Array:
    """Hidden states [batch, time, units] in float64, from nothing but the trace."""
    layer = Direction(
        trace.cell,
        trace.layer,
        trace.reverse,
        trace.input_weights,
        trace.recurrent_weights,
        trace.input_bias,
        trace.recurrent_bias,
        trace.linear_before_reset,
        trace.peephole_weights,
    )
    hidden = np.zeros(trace.hidden.shape)
    for row, length in enumerate(trace.lengths):
        h = trace.initial_hidden[row : row + 1].astype(np.float64)
        c = np.zeros_like(h) if trace.initial_cell is None else trace.initial_cell[row : row + 1]
        for t in reversed(range(length)) if trace.reverse else range(length):
            h, c = layer.step(trace.inputs[row : row + 1, t].astype(np.float64), h, c)
            hidden[row, t] = h[0]
    return hidden


def assert_follows(trace: RecurrentTrace) -> None:
    for row, (found, expected) in enumerate(zip(trace.hidden, recomputed(trace), strict=True)):
        length = trace.lengths[row]
        np.testing.assert_allclose(found[:length], expected[:length], atol=1e-5)


@pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_exported_layers_are_followed_in_order(kind: str, both: bool, tmp_path: Path) -> None:
    opened = open_onnx(models.recurrent(kind, bidirectional=both), tmp_path)
    inputs = opened.inputs(3, 7) | {"seqlens_lengths": np.array(LENGTHS)}
    traces = opened.see(inputs, Look(recurrences=True)).recurrences
    directions = (False, True) if both else (False,)
    assert [(t.layer, t.reverse) for t in traces] == list(product((0, 1), directions))
    assert {trace.lengths for trace in traces} == {LENGTHS}
    assert {trace.cell for trace in traces} == {kind.lower()}
    for trace in traces:
        assert_follows(trace)
        assert trace.input_weights.dtype == np.float64
    for below, above in zip(traces[: len(directions)], traces[len(directions) :], strict=True):
        # The second layer reads all directions of the first, side by side.
        start = models.HIDDEN * below.reverse
        part = above.inputs[..., start : start + models.HIDDEN]
        np.testing.assert_array_equal(part, below.hidden)


def operator(
    kind: str, *, weights: dict[str, Array] | None = None, rows: int | str = "b", **attributes: Any
) -> ModelProto:
    """One operator on features [time, batch, 4], its last state as the answer."""
    cell = kind.lower()
    random = np.random.default_rng(0)
    gates = GATES[cell] * UNITS  # type: ignore[index]
    constants = {
        "W": random.normal(size=(1, gates, 4)) / 2,
        "R": random.normal(size=(1, gates, UNITS)) / 2,
        **(weights or {}),
    }
    names = ["x", "W", "R", "B", "", "h", "c", "P"][: 8 if kind == "LSTM" else 6]
    given = [name if name in {"x", *constants} else "" for name in names]
    given[4] = "lengths"
    nodes = [
        helper.make_node("Cast", ["l"], ["lengths"], to=onnx.TensorProto.INT32),
        helper.make_node(kind, given, ["", "state"], "layer", hidden_size=UNITS, **attributes),
        helper.make_node("Squeeze", ["state", "zero"], ["y"]),
    ]
    tables = {name: array.astype(np.float32) for name, array in constants.items()}
    return models.built(
        nodes,
        {"x": (models.FLOAT, ["t", rows, 4]), "l": (models.INT64, [rows])},
        {"y": (models.FLOAT, [rows, UNITS])},
        {**tables, "zero": np.array([0])},
    )


def normal(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape) / 2


@pytest.mark.parametrize(
    ("kind", "weights", "attributes"),
    [
        ("RNN", {}, {}),
        ("RNN", {"B": normal(1, 2 * UNITS)}, {"direction": "reverse"}),
        ("GRU", {"B": normal(1, 6 * UNITS)}, {"linear_before_reset": 0}),
        ("GRU", {"B": normal(1, 6 * UNITS)}, {"linear_before_reset": 1}),
        ("LSTM", {"P": normal(1, 3 * UNITS)}, {}),
        ("LSTM", {"P": normal(1, 3 * UNITS), "B": normal(1, 8 * UNITS)}, {"direction": "reverse"}),
        ("LSTM", {"h": normal(1, 1, UNITS), "c": normal(1, 1, UNITS)}, {}),
    ],
)
def test_operators_are_followed_though_only_their_last_state_is_used(
    kind: str, weights: dict[str, Array], attributes: dict[str, Any], tmp_path: Path
) -> None:
    rows = 1 if "h" in weights else 3  # a constant state fixes the batch
    free = "b" if rows > 1 else 1
    opened = open_onnx(operator(kind, weights=weights, rows=free, **attributes), tmp_path)
    inputs = opened.inputs(rows, 7) | {"l": np.array(LENGTHS[:rows])}
    seen = opened.see(inputs, Look(recurrences=True, hidden=True))
    (trace,) = seen.recurrences
    assert_follows(trace)
    assert trace.reverse == (attributes.get("direction") == "reverse")
    assert seen.hidden is not None
    np.testing.assert_array_equal(seen.hidden, trace.hidden)
    last = [0 if trace.reverse else length - 1 for length in trace.lengths]
    np.testing.assert_array_equal(trace.hidden[np.arange(rows), last], seen.outputs["y"])


def test_activations_are_told_for_each_direction(tmp_path: Path) -> None:
    opened = open_onnx(operator("RNN", activations=["Relu"]), tmp_path)
    inputs = opened.inputs(2, 5) | {"l": np.array([5, 5])}
    (trace,) = opened.see(inputs, Look(recurrences=True)).recurrences
    assert trace.activations == ("Relu",)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (operator("LSTM", clip=1.0), "layer: it clips"),
        (operator("LSTM", input_forget=1), "tied"),
        (operator("RNN", activations=["LeakyRelu"], activation_alpha=[0.1]), "parameters"),
        (models.recurrent("GRU"), ""),
    ],
    ids=["clipped", "coupled", "scaled", "plain"],
)
def test_layers_that_the_equations_do_not_cover_are_refused_with_the_reason(
    model: ModelProto, reason: str, tmp_path: Path
) -> None:
    opened = open_onnx(model, tmp_path)
    inputs = opened.inputs(1, 4)
    if not reason:
        assert opened.see(inputs, Look(recurrences=True)).recurrences
        return
    with pytest.raises(NotInModel, match=reason):
        opened.see(inputs, Look(recurrences=True))
