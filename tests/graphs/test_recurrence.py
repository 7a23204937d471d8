"""Wired lengths keep padding out of recurrent layers."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from tests.support.onnx_models import (
    VOCABULARY,
    MaskedMean,
    Recurrent,
    Transformer,
    export,
    masked,
    recurrent,
)

from seqlens.graphs.anatomy import WIRED_FROM, AnatomyOverrides, InputRole, ModelAnatomy
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.recurrence import LENGTHS_INPUT, wire_lengths
from seqlens.sequences import Array, Tensors


def run(model: ModelProto, inputs: Tensors) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def inspect(model: ModelProto) -> ModelAnatomy:
    return find_anatomy(read_onnx(model), lambda inputs: run(model, inputs), AnatomyOverrides())


def hostile_batch(ids: np.ndarray, length: int, batch_first: bool) -> np.ndarray:
    """Row 0 holds the ids and padding of other valid ids, row 1 is full."""
    rows = np.random.default_rng(1).integers(1, VOCABULARY, (2, length))
    rows[0, : len(ids)] = ids
    return rows if batch_first else np.ascontiguousarray(rows.T)


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "time-major"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_bidirectional_exports_become_exact(kind: str, batch_first: bool) -> None:
    model = recurrent(kind, bidirectional=True, batch_first=batch_first)
    wired = wire_lengths(model, inspect(model))
    assert wired is not None
    onnx.checker.check_model(wired.model)
    added = wired.anatomy.input(LENGTHS_INPUT)
    assert added is not None
    assert (added.role, added.added_by_server, added.batch_axis) == (InputRole.LENGTHS, True, 0)

    ids = np.arange(1, 6)
    batch = hostile_batch(ids, 11, batch_first)
    single = ids[None] if batch_first else ids[:, None]
    alone = run(model, {"x": single})["y"]
    padded = run(model, {"x": batch})["y"]
    exact = run(wired.model, {"x": batch, LENGTHS_INPUT: np.array([5, 11])})["y"]
    if not batch_first:
        alone, padded, exact = (y.swapaxes(0, 1) for y in (alone, padded, exact))
    assert np.abs(padded[0, :5] - alone[0]).max() > 1e-2
    assert np.abs(exact[0, :5] - alone[0]).max() <= 1e-6


def test_the_models_own_lengths_are_used() -> None:
    model = recurrent("LSTM", bidirectional=True, head="length")
    wired = wire_lengths(model, inspect(model))
    assert wired is not None
    assert wired.anatomy.details[WIRED_FROM] == "lengths"
    assert [i.name for i in wired.anatomy.inputs] == ["x", "lengths"]
    ids = np.arange(1, 6)
    alone = run(model, {"x": ids[None], "lengths": np.array([5])})["y"]
    batch = {"x": hostile_batch(ids, 11, True), "lengths": np.array([5, 11])}
    assert np.abs(run(model, batch)["y"][0] - alone[0]).max() > 1e-2
    assert np.abs(run(wired.model, batch)["y"][0] - alone[0]).max() <= 1e-6


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("marks", ["real", "padding"])
def test_a_mask_tells_the_lengths(marks: str, opset: int) -> None:
    torch.manual_seed(0)
    model = masked(MaskedMean(marks), torch.int64, opset=opset)
    wired = wire_lengths(model, inspect(model))
    assert wired is not None
    assert wired.anatomy.details[WIRED_FROM] == "mask"
    ids = np.arange(1, 6)
    mask = (np.arange(11)[None] < np.array([[5], [11]])).astype(np.int64)
    mask = mask if marks == "real" else 1 - mask
    batch = {"tokens": hostile_batch(ids, 11, True), "mask": mask}
    alone = run(model, {"tokens": ids[None], "mask": mask[:1, :5]})["y"]
    assert np.abs(run(model, batch)["y"][0] - alone[0]).max() > 1e-3
    assert np.abs(run(wired.model, batch)["y"][0] - alone[0]).max() <= 1e-6


def test_nothing_is_wired_where_nothing_can_be() -> None:
    transformer = masked(Transformer(), torch.int64)
    assert wire_lengths(transformer, inspect(transformer)) is None
    frozen = export(Recurrent(), [torch.ones(2, 6, dtype=torch.int64)], ["x"], {"x": {0: "b"}})
    assert wire_lengths(frozen, inspect(frozen)) is None
    plain = recurrent()
    unbatched = inspect(plain)
    (x,) = unbatched.inputs
    unbatched = replace(unbatched, inputs=(replace(x, batch_axis=None),))
    assert wire_lengths(plain, unbatched) is None


def test_a_graph_that_wires_its_own_lengths_is_left_alone() -> None:
    class Packed(Recurrent):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            assert lengths is not None
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.embedding(x), lengths, batch_first=True, enforce_sorted=True
            )
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)
            return self.output(y)

    inputs = [torch.ones(2, 6, dtype=torch.int64), torch.tensor([6, 4])]
    model = export(Packed(), inputs, ["x", "lengths"])
    anatomy = inspect(model)
    lengths = anatomy.input("lengths")
    assert lengths is not None
    assert lengths.role is InputRole.LENGTHS
    assert wire_lengths(model, anatomy) is None
