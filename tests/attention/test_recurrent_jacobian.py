"""The closed form against autograd of PyTorch's own nets with the same weights, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from seqlens.attention.influence import measure
from seqlens.attention.questions import Cost, InfluenceQuestion, Target
from seqlens.sequences import Array, InputSequence
from tests.support.numpy_recurrent import VOCABULARY, Direction, NumpyRecurrent, recurrent

LENGTH = 9
EXACT = InfluenceQuestion(measures=("jacobian",), target=Target("hidden"), exact=True)
TORCH_ORDER = {"rnn": (0,), "lstm": (0, 2, 3, 1), "gru": (1, 0, 2)}  # of ONNX's gates


def sequence(length: int = LENGTH, seed: int = 0) -> InputSequence:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, length)
    return InputSequence({"tokens": tokens}, length)


def torch_order(one: Direction, weights: Array) -> torch.Tensor:
    gates = np.split(weights, len(TORCH_ORDER[one.cell]))
    return torch.from_numpy(np.concatenate([gates[k] for k in TORCH_ORDER[one.cell]]))


def as_torch(model: NumpyRecurrent) -> nn.RNNBase:
    first = model.layers[0][0]
    net = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[first.cell](
        first.w.shape[1], first.units, num_layers=len(model.layers), batch_first=True,
        bidirectional=len(model.layers[0]) > 1, dtype=torch.float64,
    )  # fmt: skip
    for layer in model.layers:
        for one in layer:
            name = f"l{one.layer}{'_reverse' if one.reverse else ''}"
            for part, weights in {
                "weight_ih": one.w, "weight_hh": one.r, "bias_ih": one.wb, "bias_hh": one.rb
            }.items():  # fmt: skip
                getattr(net, f"{part}_{name}").data = torch_order(one, weights)
    return net


def by_autograd(net: nn.Module, vectors: Array) -> Array:
    """Norms of derivatives of the hidden vectors, [output position, input position]."""
    run = lambda x: net(x[None])[0][0]  # noqa: E731
    full = torch.autograd.functional.jacobian(run, torch.from_numpy(vectors))
    return full.square().sum((1, 3)).sqrt().numpy()


@pytest.mark.parametrize("directions", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_two_layers_agree_with_autograd(cell: str, directions: tuple[bool, ...]) -> None:
    model, one = recurrent(cell, layers=2, directions=directions), sequence()
    answer = measure(model, [one], EXACT, together=True, cost=Cost(0, 0.0)).maps[0]
    vectors = model.embedding[one.inputs["tokens"]]
    if directions == (True,):  # PyTorch has no net that only runs backward: turn the sequence
        flipped = [(Direction(**{**vars(layer[0]), "reverse": False}),) for layer in model.layers]
        turned = as_torch(NumpyRecurrent(model.anatomy, model.embedding, flipped, model.head, True))
        expected = by_autograd(turned, vectors[::-1].copy())[::-1, ::-1]
    else:
        expected = by_autograd(as_torch(model), vectors)
    assert answer.method == "closed_form"
    np.testing.assert_allclose(answer.values, expected, rtol=1e-6, atol=1e-12)
