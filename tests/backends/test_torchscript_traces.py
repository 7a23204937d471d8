"""Recurrent layers of TorchScript models at work, held to the equations of ONNX in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.test_torchscript_opened import engine
from tests.support import torchscript_modules as modules
from tests.support.numpy_recurrent import Direction
from torch import Tensor, nn

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.tapped import Look, RecurrentTrace, TappedModel
from seqlens.backends.torchscript_engine import load
from seqlens.sequences import Array


class Stack(nn.Module):
    """Two layers over embedded tokens, the state of each step an answer."""

    def __init__(self, kind: str, bidirectional: bool, time_major: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(modules.VOCABULARY, modules.WIDTH)
        options = {"nonlinearity": "relu"} if kind == "RELU" else {}
        self.layers = getattr(nn, "RNN" if kind == "RELU" else kind)(
            modules.WIDTH,
            modules.HIDDEN,
            2,
            bias=kind != "GRU",
            batch_first=not time_major,
            bidirectional=bidirectional,
            **options,
        )
        self.time_major = time_major

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.time_major:
            return self.layers(x.transpose(0, 1))[0].transpose(0, 1)
        return self.layers(x)[0]


class PackedStack(Stack):
    """The same over packed rows, of which the shortest comes first."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)[0]


def opened(folder: Path, module: nn.Module, form: str, *example: Tensor) -> TappedModel:
    path = folder / "model.pt"
    with modules.quiet():
        made = modules.made(module, *(example if form == "traced" else ()))
        torch.jit.save(torch.jit.freeze(made) if form == "frozen" else made, path)
    tapped = load(path, LoadOptions(device=Device("cpu"))).tapped()
    assert tapped is not None
    return tapped


TOKENS = torch.arange(21).reshape(3, 7)
LENGTHS = torch.tensor([4, 7, 6])


def again(trace: RecurrentTrace) -> Array:
    """The hidden states of a trace by its own weights and inputs."""
    if trace.activations:
        return relu(trace)
    own = Direction(
        trace.cell, trace.layer, trace.reverse, trace.input_weights, trace.recurrent_weights,
        trace.input_bias, trace.recurrent_bias, trace.linear_before_reset,
    )  # fmt: skip
    return own.run(trace.inputs.astype(np.float64), np.array(trace.lengths))


def relu(trace: RecurrentTrace) -> Array:
    h, hidden = np.zeros(trace.initial_hidden.shape), np.zeros(trace.hidden.shape)
    order = range(trace.inputs.shape[1])
    for t in reversed(order) if trace.reverse else order:
        into = trace.inputs[:, t] @ trace.input_weights.T + trace.input_bias
        h = np.maximum(into + h @ trace.recurrent_weights.T + trace.recurrent_bias, 0)
        hidden[:, t] = h
    return hidden


def check(traces: tuple[RecurrentTrace, ...], last: Array, directions: int) -> None:
    """Each trace by numpy, each layer from the one below it, and the last by torch's own."""
    assert [(t.layer, t.reverse) for t in traces] == [
        (layer, bool(direction)) for layer in (0, 1) for direction in range(directions)
    ]
    assert len({trace.name for trace in traces}) == len(traces)
    for trace in traces:
        np.testing.assert_allclose(trace.hidden, again(trace), atol=1e-5)
        assert trace.input_weights.dtype == np.float64
    below, above = traces[:directions], traces[directions:]
    joined = np.concatenate([trace.hidden for trace in below], -1)
    np.testing.assert_array_equal(above[0].inputs, joined)
    np.testing.assert_allclose(
        np.concatenate([trace.hidden for trace in above], -1), last, atol=1e-5
    )


@pytest.mark.parametrize("form", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("kind", ["RNN", "RELU", "LSTM", "GRU"])
def test_stacked_layers_agree_with_numpy_and_torch(kind: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Stack(kind, bidirectional=kind != "GRU").eval()
    tapped = opened(tmp_path, module, form, TOKENS)
    seen = tapped.run({"tokens": TOKENS.numpy()}, Look(embedding=True, recurrences=True))
    directions = 1 if kind == "GRU" else 2
    check(seen.recurrences, module(TOKENS).detach().numpy(), directions)
    assert seen.recurrences[0].lengths == (7, 7, 7)
    np.testing.assert_array_equal(seen.recurrences[0].inputs, seen.embedding)


@pytest.mark.parametrize("form", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_packed_rows_come_back_in_the_order_of_the_batch(
    kind: str, form: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = PackedStack(kind, bidirectional=True).eval()
    tapped = opened(tmp_path, module, form, TOKENS, LENGTHS)
    inputs = {"tokens": TOKENS.numpy(), "lengths": LENGTHS.numpy()}
    seen = tapped.run(inputs, Look(recurrences=True))
    check(seen.recurrences, module(TOKENS, LENGTHS).detach().numpy(), 2)
    assert [trace.lengths for trace in seen.recurrences] == [(4, 7, 6)] * 4


def test_layers_that_put_time_first_are_given_batch_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Stack("GRU", bidirectional=False, time_major=True).eval()
    tapped = opened(tmp_path, module, "scripted")
    seen = tapped.run({"tokens": TOKENS.numpy()}, Look(recurrences=True))
    check(seen.recurrences, module(TOKENS).detach().numpy(), 1)


def test_layers_start_from_the_states_that_they_are_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = modules.Continued(bidirectional=False).eval()
    tapped = engine(tmp_path, module).tapped()
    assert tapped is not None
    h, c = torch.randn(2, 2, 3, modules.HIDDEN)
    inputs = {"tokens": TOKENS.numpy(), "h": h.numpy(), "c": c.numpy()}
    traces = tapped.run(inputs, Look(recurrences=True)).recurrences
    np.testing.assert_array_equal(traces[1].initial_hidden, h[1].numpy())
    np.testing.assert_array_equal(traces[1].initial_cell, c[1].numpy())
    expected = module(TOKENS, h, c)[0].detach().numpy()
    np.testing.assert_allclose(traces[1].hidden, expected, atol=1e-5)
