"""The last vectors of the positions, in exports of many forms, against eager PyTorch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto
from tests.support import onnx_models as models
from tests.support.onnx_opened import open_onnx
from torch import Tensor, nn

from seqlens.backends.tapped import Look
from seqlens.errors import NotInModel
from seqlens.sequences import Array

AXES = {"x": {0: "b", 1: "t"}, "mask": {0: "b", 1: "t"}, "lengths": {0: "b"}}


class Net(nn.Module):
    """A body with one vector a position, and a head."""

    def __init__(self, body: str, head: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(models.VOCABULARY, models.WIDTH)
        both = body.endswith("both")
        self.body = nn.LSTM(models.WIDTH, 8, 2, batch_first=True, bidirectional=both)
        self.norm = nn.LayerNorm(models.WIDTH)
        width = {"lstm": 8, "lstm both": 16, "norm": models.WIDTH}[body]
        self.first, self.output = nn.Linear(width, width), nn.Linear(width, 5)
        self.kind, self.head = body, head

    def vectors(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x)
        return self.norm(embedded) if self.kind == "norm" else self.body(embedded)[0]

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        y = self.vectors(x)
        if self.head == "final state":
            state = self.body(self.embedding(x))[1][0]
            return self.output(
                torch.cat(tuple(state[-2:]), -1) if state.shape[0] > 2 else state[-1]
            )
        if self.head == "mean under a mask":
            real = more.unsqueeze(-1).expand(y.shape).float()
            return self.output((y * real).sum(1) / real.sum(1).clamp(min=1e-9))
        return HEADS[self.head](self, y, more)


HEADS: Mapping[str, Callable[[Net, Tensor, Any], Tensor]] = {
    "none": lambda net, y, more: y,
    "each step": lambda net, y, more: net.output(y),
    "probabilities": lambda net, y, more: torch.log_softmax(net.output(y), -1),
    "at lengths": lambda net, y, more: net.output(y[torch.arange(len(y)), more - 1]),
    "mean": lambda net, y, more: net.output(y.mean(1)),
    "largest": lambda net, y, more: net.output(y.max(1).values),
    "first": lambda net, y, more: net.output(torch.tanh(net.first(y[:, 0]))),
    "time first": lambda net, y, more: net.output(y.transpose(0, 1)),
    "pooled by weights": lambda net, y, more: net.output(
        (torch.softmax(torch.tanh(net.first(y)).sum(-1, keepdim=True), 1) * y).sum(1)
    ),
}
MORE = {"mean under a mask": "mask", "at lengths": "lengths"}


def exported(net: Net) -> tuple[ModelProto, tuple[str, ...]]:
    names = ("x", *filter(None, [MORE.get(net.head)]))
    values = {"x": torch.ones(2, 6, dtype=torch.int64)}
    values["mask"], values["lengths"] = values["x"], torch.tensor([6, 4])
    model = models.export(net, [values[name] for name in names], names, AXES)
    return model, names


CASES = [
    *(("lstm", head) for head in (*HEADS, "final state", "mean under a mask")),
    *(("norm", head) for head in ("none", "each step", "mean", "mean under a mask")),
    ("lstm both", "each step"),
    ("lstm both", "final state"),
]


@pytest.mark.parametrize(("body", "head"), CASES)
def test_hidden_vectors_are_those_before_the_head(body: str, head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(body, head).eval()
    opened = open_onnx(exported(net)[0], tmp_path)
    inputs = opened.inputs(3, 7)
    hidden = opened.see(inputs, Look(hidden=True)).hidden
    with torch.no_grad():
        expected: Array = net.vectors(torch.from_numpy(inputs["x"])).numpy()
    assert hidden is not None
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


def test_padding_that_is_hidden_by_a_mask_is_seen_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    opened = open_onnx(exported(Net("norm", "mean under a mask").eval())[0], tmp_path)
    inputs = opened.inputs(2, 6)
    inputs["mask"][1, 4:] = 0
    hidden = opened.see(inputs, Look(hidden=True)).hidden
    assert hidden is not None
    assert np.abs(hidden[1, 4:]).min(-1).max() > 0


def test_a_model_that_reads_time_first_gives_the_batch_first(tmp_path: Path) -> None:
    opened = open_onnx(models.recurrent("GRU", batch_first=False), tmp_path)
    hidden = opened.see(opened.inputs(3, 7), Look(hidden=True)).hidden
    assert hidden is not None
    assert hidden.shape == (3, 7, models.HIDDEN)


class Shorter(nn.Module):
    """Half as many vectors as positions, of features."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(models.WIDTH, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolution(x.transpose(1, 2))).amax(-1)


def test_vectors_of_two_positions_each_are_not_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.export(Shorter(), [torch.randn(2, 6, models.WIDTH)], ["x"], AXES)
    opened = open_onnx(model, tmp_path)
    hidden = opened.see(opened.inputs(2, 8), Look(hidden=True)).hidden
    assert hidden is not None
    np.testing.assert_array_equal(hidden, opened.inputs(2, 8)["x"])


def test_a_model_of_numbers_alone_has_no_hidden_vectors(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x == 3).sum(1, keepdim=True).float()

    model = models.export(Counts(), [torch.ones(2, 6, dtype=torch.int64)], ["x"], AXES)
    opened = open_onnx(model, tmp_path)
    with pytest.raises(NotInModel, match="one vector a position"):
        opened.see(opened.inputs(2, 6), Look(hidden=True))


class Reflecting(nn.Module):
    """Mirrors what it read at both ends, for which a short sequence is not enough."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(models.VOCABULARY, models.WIDTH)
        self.mixing = nn.Conv1d(models.WIDTH, 8, 41)
        self.output = nn.Linear(8, 5)

    def vectors(self, x: Tensor) -> Tensor:
        wide = nn.functional.pad(self.embedding(x).transpose(1, 2), (20, 20), mode="reflect")
        return self.mixing(wide).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.vectors(x).mean(1))


def test_a_model_that_refuses_short_sequences_is_tried_on_longer_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Reflecting().eval(), torch.arange(60).reshape(2, 30) % models.VOCABULARY
    opened = open_onnx(models.export(net, [x], ["x"]), tmp_path)
    seen = opened.tapped.run({"x": x.numpy()}, Look(hidden=True))
    np.testing.assert_allclose(seen.hidden, net.vectors(x).detach().numpy(), atol=1e-5)
