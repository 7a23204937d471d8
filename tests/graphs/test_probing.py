"""Roles and axes are told by running, whatever the inputs are called."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime
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
    MaskedMean,
    Recurrent,
    Stateful,
    Transformer,
    built,
    export,
    masked,
    recurrent,
)

from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import (
    AnatomyOverrides,
    Architecture,
    InputOverride,
    InputRole,
    ModelAnatomy,
    OutputOverride,
    OutputRole,
)
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.reading import TensorReading
from seqlens.sequences import Array, Tensors


def runner(model: ModelProto) -> Callable[[Tensors], dict[str, Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def inspect(model: ModelProto, overrides: AnatomyOverrides | None = None) -> ModelAnatomy:
    return find_anatomy(read_onnx(model), runner(model), overrides or AnatomyOverrides())


def role_of(anatomy: ModelAnatomy, name: str) -> InputRole:
    found = anatomy.input(name)
    assert found is not None
    return found.role


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "features"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "time-major"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("head", ["steps", "last"])
def test_axes_of_recurrent_models(
    kind: str, bidirectional: bool, batch_first: bool, ids: bool, head: str
) -> None:
    model = recurrent(
        kind, bidirectional=bidirectional, batch_first=batch_first, ids=ids, head=head
    )
    anatomy = inspect(model)
    (x,), (y,) = anatomy.inputs, anatomy.outputs
    assert x.role is InputRole.SEQUENCE
    assert (x.batch_axis, x.time_axis) == ((0, 1) if batch_first else (1, 0))
    assert x.shape == ((-1, -1) if ids else (-1, -1, WIDTH))
    assert x.vocabulary_size == (VOCABULARY if ids else None)
    if head == "last":
        assert (y.role, y.batch_axis, y.time_axes) == (OutputRole.PER_SEQUENCE, 0, ())
        assert y.shape == (-1, CLASSES)
    else:
        assert y.role is OutputRole.PER_STEP
        assert (y.batch_axis, y.time_axis) == (x.batch_axis, x.time_axis)
    assert anatomy.architecture is Architecture(kind.lower())
    assert anatomy.sequential_depth == "O(n)"
    assert anatomy.batched
    assert anatomy.has_time


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_lengths_are_told_by_what_they_cut_off(bidirectional: bool) -> None:
    anatomy = inspect(recurrent("LSTM", bidirectional=bidirectional, head="length"))
    lengths = anatomy.input("lengths")
    assert lengths is not None
    assert (lengths.role, lengths.batch_axis, lengths.time_axis) == (InputRole.LENGTHS, 0, None)
    leaks = any("beyond the length" in finding for finding in anatomy.findings)
    assert leaks is bidirectional


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("marks", ["real", "padding"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_masks_of_a_transformer(marks: str, dtype: torch.dtype, causal: bool) -> None:
    torch.manual_seed(0)
    anatomy = inspect(masked(Transformer(marks=marks, causal=causal), dtype))
    mask, tokens = anatomy.input("mask"), anatomy.input("tokens")
    assert mask is not None
    assert tokens is not None
    assert (mask.role, mask.mask_marks) == (InputRole.MASK, marks)
    assert (mask.batch_axis, mask.time_axis) == (0, 1)
    assert (tokens.role, tokens.vocabulary_size) == (InputRole.SEQUENCE, VOCABULARY)
    assert anatomy.max_length == LONGEST
    assert anatomy.architecture is Architecture.TRANSFORMER
    assert anatomy.sequential_depth == "O(1)"
    assert not anatomy.findings


@pytest.mark.parametrize("marks", ["real", "padding"])
def test_a_leaking_mask_is_still_a_mask_and_the_leak_is_told(marks: str) -> None:
    torch.manual_seed(0)
    anatomy = inspect(masked(MaskedMean(marks), torch.bool))
    mask = anatomy.input("mask")
    assert mask is not None
    assert (mask.role, mask.mask_marks) == (InputRole.MASK, marks)
    assert any("positions marked as padding" in finding for finding in anatomy.findings)


def test_state_is_paired_with_the_output_that_continues_it() -> None:
    x, state = torch.randn(2, 6, WIDTH), torch.zeros(1, 2, HIDDEN)
    axes = {"x": {0: "b", 1: "t"}, "h": {1: "b"}, "c": {1: "b"}}
    model = export(Stateful(), [x, state, state], ["x", "h", "c"], axes, ["y", "h_next", "c_next"])
    anatomy = inspect(model)
    assert [i.role for i in anatomy.inputs] == [
        InputRole.SEQUENCE,
        InputRole.STATE,
        InputRole.STATE,
    ]
    assert [i.state_output for i in anatomy.inputs] == [None, "h_next", "c_next"]
    assert [i.batch_axis for i in anatomy.inputs] == [0, 1, 1]
    assert [o.role for o in anatomy.outputs] == [
        OutputRole.PER_STEP,
        OutputRole.STATE,
        OutputRole.STATE,
    ]
    assert anatomy.recurrent_layers[0].initial_state == "input:h"


def test_a_map_of_attention_weights_is_an_attention_output() -> None:
    anatomy = inspect(masked(Transformer(maps=True), torch.int64, ["y", "weights"]))
    weights = anatomy.output("weights")
    assert weights is not None
    assert weights.role is OutputRole.ATTENTION
    assert (weights.batch_axis, weights.time_axes) == (0, (2, 3))


def test_the_names_of_axes_do_not_mislead() -> None:
    """The axis called t carries the batch, the axis called b the time."""
    model = recurrent("GRU")
    swapped = {"b": "t", "t": "b"}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = swapped.get(dim.dim_param, dim.dim_param)
    (x,) = inspect(model).inputs
    assert (x.batch_axis, x.time_axis) == (0, 1)


def test_a_length_frozen_in_the_declaration() -> None:
    model = export(Recurrent(), [torch.ones(2, 6, dtype=torch.int64)], ["x"], {"x": {0: "b"}})
    anatomy = inspect(model)
    (x,), (y,) = anatomy.inputs, anatomy.outputs
    assert anatomy.fixed_length == 6
    assert x.shape == (-1, 6)
    assert (x.batch_axis, x.time_axis) == (0, 1)
    assert (y.role, y.time_axis) == (OutputRole.PER_STEP, 1)
    assert any("only sequences of 6 positions" in finding for finding in anatomy.findings)


def test_a_length_frozen_behind_a_free_declaration() -> None:
    """A Reshape to constants lets one length through although the input declares any."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Reshape", ["e", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "table": random.standard_normal((9, 4)).astype(np.float32),
        "shape": np.array([-1, 44]),
        "w": random.standard_normal((44, 3)).astype(np.float32),
    }
    model = built(nodes, {"ids": (INT64, ["b", "t"])}, {"y": (FLOAT, ["b", 3])}, constants)
    anatomy = inspect(model)
    assert anatomy.fixed_length == 11
    assert any("only sequences of 11 positions" in finding for finding in anatomy.findings)


def test_the_frozen_length_of_a_legacy_encoder_export() -> None:
    """The legacy exporter bakes the length of nn.TransformerEncoder in, whatever it declares."""

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(WIDTH, 3, 16, batch_first=True)
            self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.layers(self.embedding(tokens), src_key_padding_mask=mask)

    anatomy = inspect(masked(Encoder(), torch.bool))
    mask = anatomy.input("mask")
    assert mask is not None
    assert (mask.role, mask.mask_marks, mask.shape) == (InputRole.MASK, "padding", (-1, 6))
    assert anatomy.fixed_length == 6
    assert len(anatomy.attention_sites) == 2


def test_a_frozen_batch() -> None:
    model = export(Recurrent(), [torch.ones(1, 6, dtype=torch.int64)], ["x"], {"x": {1: "t"}})
    anatomy = inspect(model)
    (x,) = anatomy.inputs
    assert anatomy.fixed_batch == 1
    assert (x.batch_axis, x.time_axis, x.shape) == (0, 1, (1, -1))


def test_a_model_without_time_is_no_sequence_model() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    weights = {"w": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    anatomy = inspect(built(nodes, {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 3])}, weights))
    (x,) = anatomy.inputs
    assert (x.role, x.batch_axis, x.time_axis) == (InputRole.OTHER, 0, None)
    assert not anatomy.has_time
    assert anatomy.architecture is Architecture.OTHER


def test_numbered_positions_and_a_second_sequence() -> None:
    """Only its name tells an input of positions from ids; its table limits the length."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["w"]),
        helper.make_node("Gather", ["kinds", "segments"], ["k"]),
        helper.make_node("Gather", ["places", "position_ids"], ["p"]),
        helper.make_node("Sum", ["w", "k", "p"], ["x"]),
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0),
    ]
    random = np.random.default_rng(0)
    rows = {"words": 31, "kinds": 2, "places": 64}
    tables = {n: random.standard_normal((size, 4)).astype(np.float32) for n, size in rows.items()}
    inputs = {n: (INT64, ["b", "t"]) for n in ("position_ids", "segments", "ids")}
    anatomy = inspect(built(nodes, inputs, {"y": (FLOAT, ["b", 4])}, tables))
    assert [i.role for i in anatomy.inputs] == [
        InputRole.POSITIONS,
        InputRole.SEQUENCE,
        InputRole.SEQUENCE,
    ]
    assert [i.vocabulary_size for i in anatomy.inputs] == [64, 2, 31]
    assert anatomy.max_length == 64


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "time-major"])
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "features"])
def test_inputs_of_which_the_file_tells_nothing(ids: bool, batch_first: bool) -> None:
    """As in TorchScript: no datatypes, no shapes, no vocabulary."""
    model = recurrent("GRU", ids=ids, batch_first=batch_first)
    reading = read_onnx(model)
    blank = replace(
        reading,
        inputs=tuple(TensorReading(i.name, None, None) for i in reading.inputs),
        feature_sizes=(99, WIDTH),
    )
    anatomy = find_anatomy(blank, runner(model), AnatomyOverrides())
    (x,) = anatomy.inputs
    assert (x.role, x.datatype) == (InputRole.SEQUENCE, "INT64" if ids else "FP32")
    assert (x.batch_axis, x.time_axis) == ((0, 1) if batch_first else (1, 0))


def test_lengths_of_which_the_file_tells_nothing() -> None:
    model = recurrent("LSTM", head="length")
    reading = read_onnx(model)
    blank = replace(
        reading, inputs=tuple(TensorReading(i.name, None, None) for i in reading.inputs)
    )
    anatomy = find_anatomy(blank, runner(model), AnatomyOverrides())
    assert [i.role for i in anatomy.inputs] == [InputRole.SEQUENCE, InputRole.LENGTHS]


def test_what_the_user_states_wins() -> None:
    overrides = AnatomyOverrides(
        inputs={
            "lengths": InputOverride(role=InputRole.OTHER),
            "x": InputOverride(vocabulary_size=7),
        },
        outputs={"y": OutputOverride(role=OutputRole.OTHER)},
        architecture=Architecture.MIXED,
        max_length=99,
    )
    anatomy = inspect(recurrent(head="length"), overrides)
    assert role_of(anatomy, "lengths") is InputRole.OTHER
    assert anatomy.inputs[0].vocabulary_size == 7
    assert anatomy.outputs[0].role is OutputRole.OTHER
    assert anatomy.architecture is Architecture.MIXED
    assert anatomy.max_length == 99
    assert "stated by the configuration: mixed" in anatomy.evidence


@pytest.mark.parametrize("axis", ["batch_axis", "time_axis"])
def test_axes_that_are_stated_must_be_there(axis: str) -> None:
    for overrides in (
        AnatomyOverrides(inputs={"x": InputOverride(**{axis: 2})}),  # type: ignore[arg-type]
        AnatomyOverrides(outputs={"y": OutputOverride(**{axis: 2})}),  # type: ignore[arg-type]
    ):
        with pytest.raises(ModelRejected, match=rf"{axis} of '[xy]' is 2; expected less than 2"):
            inspect(recurrent("GRU", head="last"), overrides)


def test_a_model_that_takes_nothing_is_refused_with_its_own_words() -> None:
    def refuse(_: Tensors) -> dict[str, Array]:
        raise RuntimeError("weights are on fire")

    with pytest.raises(ModelRejected, match=r"(?s)x INT64.*weights are on fire.*model\.yaml"):
        find_anatomy(read_onnx(recurrent()), refuse, AnatomyOverrides())


def test_random_answers_are_told() -> None:
    model = recurrent()
    run, random = runner(model), np.random.default_rng(0)

    def shaky(inputs: Tensors) -> dict[str, Array]:
        return {n: a + random.normal(0, 0.01, a.shape) for n, a in run(inputs).items()}

    anatomy = find_anatomy(read_onnx(model), shaky, AnatomyOverrides())
    assert any("same input gives different answers" in finding for finding in anatomy.findings)


def test_inspection_is_repeatable() -> None:
    model = masked(Transformer(), torch.int64)
    assert inspect(model) == inspect(model)
