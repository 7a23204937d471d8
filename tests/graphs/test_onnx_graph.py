"""What is read off an ONNX file without running it."""

import io
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from tests.support.onnx_models import (
    CLASSES,
    FLOAT,
    HIDDEN,
    INT64,
    LONGEST,
    VOCABULARY,
    WIDTH,
    Recurrent,
    Transformer,
    built,
    export,
    masked,
    quietly,
    recurrent,
)

from seqlens.graphs.anatomy import RecurrentLayer
from seqlens.graphs.onnx_graph import read_onnx


def parts(model: ModelProto) -> dict[str, int]:
    return {group.part: group.count for group in read_onnx(model).parameters}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_operators(kind: str, bidirectional: bool) -> None:
    layers = read_onnx(recurrent(kind, bidirectional=bidirectional)).recurrent_layers
    assert [layer.cell for layer in layers] == [kind.lower()] * 2
    direction = "bidirectional" if bidirectional else "forward"
    assert {layer.direction for layer in layers} == {direction}
    assert [layer.input_size for layer in layers] == [WIDTH, HIDDEN * (1 + bidirectional)]
    assert {layer.hidden_size for layer in layers} == {HIDDEN}
    assert {layer.initial_state for layer in layers} == {"zeros"}
    assert {layer.operator for layer in layers} == {kind}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_parameters_are_counted_by_part(kind: str) -> None:
    module = Recurrent(kind)
    expected = {
        "recurrent": sum(p.numel() for p in module.layers.parameters()),
        "embedding": VOCABULARY * WIDTH,
        "dense": HIDDEN * CLASSES + CLASSES,
    }
    assert parts(recurrent(kind)) == expected


def test_parameters_of_a_transformer_are_all_found() -> None:
    module = Transformer()
    for parameter in module.parameters():  # equal ones would be exported once
        torch.nn.init.normal_(parameter)
    found = parts(masked(module, torch.int64))
    assert found["attention"] == 2 * 4 * (WIDTH * WIDTH + WIDTH)
    assert found["normalization"] == 2 * 2 * WIDTH
    assert found["embedding"] == (VOCABULARY + LONGEST) * WIDTH
    assert sum(found.values()) == sum(p.numel() for p in module.parameters())


def test_vocabulary_and_position_table_are_told_apart() -> None:
    reading = read_onnx(masked(Transformer(), torch.int64))
    assert [i.vocabulary_size for i in reading.inputs] == [VOCABULARY, None]
    assert LONGEST in reading.table_sizes
    assert VOCABULARY not in reading.table_sizes


def test_the_vocabulary_is_found_behind_casts_and_picks() -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=INT64),
        helper.make_node("Gather", ["wide", "first"], ["picked"], axis=1),
        helper.make_node("Clip", ["picked", "low", "high"], ["safe"]),
        helper.make_node("Cast", ["packed"], ["table"], to=FLOAT),
        helper.make_node("Gather", ["table", "safe"], ["y"]),
    ]
    constants = {
        "first": np.array([0]),
        "low": np.array(0),
        "high": np.array(8),
        "packed": np.zeros((9, 4), np.int8),
    }
    inputs = {"ids": (onnx.TensorProto.INT32, ["b", "t"])}
    reading = read_onnx(built(nodes, inputs, {"y": (FLOAT, ["b", 1, 4])}, constants))
    assert reading.inputs[0].vocabulary_size == 9
    assert reading.precision == "int8"


@pytest.mark.parametrize(("source", "precision"), [("x", "int8"), ("weight", "fp32")])
def test_a_model_that_rounds_what_it_computes_is_int8_though_its_weights_are_not(
    source: str, precision: str
) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [source], ["rounded", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["near"]),
        helper.make_node("MatMul", ["x", "near"], ["y"]),
    ]
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    reading = read_onnx(
        built(nodes, {"x": (FLOAT, [4, 4])}, {"y": (FLOAT, [4, 4])}, {"weight": weight})
    )
    assert reading.precision == precision


def test_a_scalar_is_read_with_what_it_is_compared_with() -> None:
    nodes = [
        helper.make_node("Equal", ["rate", "known"], ["same"]),
        helper.make_node("Where", ["same", "x", "half"], ["y"]),
    ]
    constants = {"known": np.array(16000), "half": np.array(0.5, np.float32)}
    inputs: dict[str, Any] = {"x": (FLOAT, ["b", 4]), "rate": (INT64, [])}
    reading = read_onnx(built(nodes, inputs, {"y": (FLOAT, ["b", 4])}, constants))
    assert reading.inputs[1].compared_with == (16000,)


def test_unset_sizes_are_read_as_any() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    reading = read_onnx(built([node], {"x": (FLOAT, [0, "t", 4])}, {"y": (FLOAT, None)}))
    assert reading.inputs[0].shape == (None, "t", 4)
    assert reading.outputs[0].shape is None


def lstm_weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "w": random.standard_normal((1, 4 * HIDDEN, WIDTH)).astype(np.float32),
        "r": random.standard_normal((1, 4 * HIDDEN, HIDDEN)).astype(np.float32),
    }


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


def lstm_body(prefix: str, layers: int) -> onnx.GraphProto:
    """A body without inputs, as spox writes: weights are Constant nodes, x is captured."""
    nodes = []
    for index in range(layers):
        names = {n: f"{prefix}_{n}_{index}" for n in ("w", "r", "y", "x")}
        weights = lstm_weights(np.random.default_rng(index))
        width = {"w": weights["w"] if index == 0 else weights["r"], "r": weights["r"]}
        nodes += [constant(names[n], width[n]) for n in ("w", "r")]
        source = "x" if index == 0 else names["x"]
        nodes.append(
            helper.make_node(
                "LSTM", [source, names["w"], names["r"]], [names["y"]], hidden_size=HIDDEN
            )
        )
        if index + 1 < layers:
            following = f"{prefix}_x_{index + 1}"
            nodes.append(constant(f"{prefix}_axis_{index}", np.array([1])))
            nodes.append(
                helper.make_node("Squeeze", [names["y"], f"{prefix}_axis_{index}"], [following])
            )
    result = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
    return helper.make_graph(nodes, prefix, [], [result])


def test_layers_inside_branches_are_counted_once() -> None:
    branches = {"then_branch": lstm_body("one", 1), "else_branch": lstm_body("two", 2)}
    nodes = [helper.make_node("If", ["flag"], ["y"], **branches)]
    inputs: dict[str, Any] = {
        "x": (FLOAT, ["t", "b", WIDTH]),
        "flag": (onnx.TensorProto.BOOL, []),
    }
    model = built(nodes, inputs, {"y": (FLOAT, None)})
    reading = read_onnx(model)
    assert [layer.input_size for layer in reading.recurrent_layers] == [WIDTH, HIDDEN]
    assert parts(model)["recurrent"] == 4 * HIDDEN * (2 * (WIDTH + HIDDEN) + 2 * HIDDEN)


def test_layers_inside_local_functions_are_found() -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=HIDDEN)
    function = helper.make_function(
        "mine", "Layer", ["x", "w", "r"], ["y"], [node], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Layer", ["x", "w", "r"], ["y"], domain="mine")
    weights = lstm_weights(np.random.default_rng(0))
    model = built([call], {"x": (FLOAT, ["t", "b", WIDTH])}, {"y": (FLOAT, None)}, weights)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    (layer,) = read_onnx(model).recurrent_layers
    assert (layer.cell, layer.hidden_size, layer.input_size) == ("lstm", HIDDEN, WIDTH)


@pytest.mark.parametrize(
    ("state", "expected"),
    [("h", "input:h"), ("squared", "computed"), ("ones", "constant"), ("zeros", "zeros")],
)
def test_where_the_initial_state_comes_from(state: str, expected: str) -> None:
    nodes = [
        helper.make_node("Mul", ["h", "h"], ["squared"]),
        helper.make_node("Exp", ["squared"], ["grown"]),
        helper.make_node(
            "LSTM",
            ["x", "w", "r", "", "", "grown" if state == "squared" else state],
            ["y"],
            hidden_size=HIDDEN,
        ),
    ]
    constants = {
        **lstm_weights(np.random.default_rng(0)),
        "ones": np.ones((1, 2, HIDDEN), np.float32),
        "zeros": np.zeros((1, 2, HIDDEN), np.float32),
    }
    inputs: dict[str, Any] = {"x": (FLOAT, ["t", 2, WIDTH]), "h": (FLOAT, [1, 2, HIDDEN])}
    (layer,) = read_onnx(built(nodes, inputs, {"y": (FLOAT, None)}, constants)).recurrent_layers
    assert layer.initial_state == expected


class Cell(torch.nn.Module):
    """A cell written out by hand, its state carried by the caller."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[kind]
        self.from_input = torch.nn.Linear(WIDTH, gates * HIDDEN)
        self.from_state = torch.nn.Linear(HIDDEN, gates * HIDDEN)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "lstm":
            h, c = state[:, 0], state[:, 1]
            i, f, o, g = (self.from_input(x) + self.from_state(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            return h, torch.stack([h, c], 1)
        h = state[:, 0]
        if self.kind == "rnn":
            h = torch.tanh(self.from_input(x) + self.from_state(h))
            return h, h.unsqueeze(1)
        (r, z, n), (hr, hz, hn) = self.from_input(x).chunk(3, -1), self.from_state(h).chunk(3, -1)
        z = torch.sigmoid(z + hz)
        h = (1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + z * h
        return h, h.unsqueeze(1)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_cells_written_out_as_gates_are_recognised(kind: str) -> None:
    state = torch.zeros(2, 2 if kind == "lstm" else 1, HIDDEN)
    model = export(
        Cell(kind),
        [torch.randn(2, WIDTH), state],
        ["x", "state"],
        {"x": {0: "b"}, "state": {0: "b"}},
        ["y", "state_next"],
    )
    (layer,) = read_onnx(model).recurrent_layers
    assert layer == RecurrentLayer(
        "state",
        kind,
        "forward",
        None,
        HIDDEN,
        1,
        "input:state",
        "unrolled",  # type: ignore[arg-type]
    )


def test_a_cell_in_the_body_of_a_scan_is_recognised() -> None:
    """h = tanh(h R + p), the form in which an RNN runs fastest."""
    nodes = [
        helper.make_node("MatMul", ["h_in", "r"], ["from_state"]),
        helper.make_node("Add", ["from_state", "p_in"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y_out"]),
    ]
    values = {n: helper.make_tensor_value_info(n, FLOAT, None) for n in ("h_in", "p_in")}
    results = {n: helper.make_tensor_value_info(n, FLOAT, None) for n in ("h_out", "y_out")}
    body = helper.make_graph(nodes, "body", list(values.values()), list(results.values()))
    outer = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Scan", ["h0", "p"], ["last", "y"], num_scan_inputs=1, body=body),
    ]
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((WIDTH, HIDDEN)).astype(np.float32),
        "r": random.standard_normal((HIDDEN, HIDDEN)).astype(np.float32),
        "h0": np.zeros((2, HIDDEN), np.float32),
    }
    shapes = {"y": (FLOAT, ["t", 2, HIDDEN]), "last": (FLOAT, [2, HIDDEN])}
    model = built(outer, {"x": (FLOAT, ["t", 2, WIDTH])}, shapes, constants)
    (layer,) = read_onnx(model).recurrent_layers
    assert (layer.cell, layer.operator, layer.hidden_size) == ("rnn", "Scan", HIDDEN)
    assert layer.initial_state == "zeros"


def test_a_transformer_holds_no_recurrence() -> None:
    assert read_onnx(masked(Transformer(), torch.int64)).recurrent_layers == ()


def test_a_recurrence_unrolled_by_the_exporter_is_reported_with_advice() -> None:
    """The dynamo exporter writes nn.RNN out step by step, for the example's length alone."""
    module = Recurrent("RNN").eval()
    example = torch.ones(2, 9, dtype=torch.int64)

    def write(buffer: io.BytesIO) -> None:
        shapes = {"x": {1: torch.export.Dim("t", min=2, max=64)}}
        torch.onnx.export(
            module, (example,), buffer, dynamo=True, dynamic_shapes=shapes, verbose=False
        )

    try:
        model = quietly(write)
    except Exception as error:
        pytest.skip(f"this torch does not export nn.RNN that way: {type(error).__name__}")
    reading = read_onnx(model)
    assert {layer.operator for layer in reading.recurrent_layers} == {"unrolled"}
    assert {layer.cell for layer in reading.recurrent_layers} == {"rnn"}
    assert any("step by step" in f and "dynamo=False" in f for f in reading.findings)
