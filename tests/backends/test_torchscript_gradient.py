"""Gradients of TorchScript models, held to autograd on the eager module in float64."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.test_torchscript_opened import engine
from tests.support import torchscript_modules as modules
from tests.support.torchscript_attention_modules import (
    Attention,
    BoolMasked,
    Classifier,
    Encoder,
    slow_path,
)
from torch import Tensor, nn

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.tapped import Look, TappedModel
from seqlens.backends.torchscript_engine import load
from seqlens.sequences import Array

MODELS: dict[str, Any] = {
    "by hand": lambda: Classifier(Attention),
    "fused": lambda: Classifier(BoolMasked),
    "encoder": Encoder,
    "lstm": lambda: modules.Recurrent("LSTM", bidirectional=True),
    "gru": lambda: modules.Recurrent("GRU"),
    "rnn": lambda: modules.Recurrent("RNN"),
}
TOKENS = np.random.default_rng(1).integers(0, modules.VOCABULARY, (2, 6))
INPUTS = {"tokens": TOKENS, "lengths": np.array([6, 4])}


def opened(folder: Path, module: nn.Module, form: str) -> TappedModel:
    path = folder / "model.pt"
    example = (torch.from_numpy(TOKENS), torch.from_numpy(INPUTS["lengths"]))
    with modules.quiet():
        made = modules.made(module, *(example if form == "traced" else ()))
        torch.jit.save(torch.jit.freeze(made) if form == "frozen" else made, path)
    tapped = load(path, LoadOptions(device=Device("cpu"))).tapped()
    assert tapped is not None
    return tapped


def by_autograd(module: nn.Module, weights: Array) -> Array:
    """The same derivative of the eager module, in float64."""
    double = copy.deepcopy(module).double()
    vectors: list[Tensor] = []

    def kept(_: Any, __: Any, looked_up: Tensor) -> Tensor:
        vectors.append(looked_up.detach().requires_grad_())
        return vectors[-1]

    double.embedding.register_forward_hook(kept)
    with slow_path():
        y = double(*(torch.from_numpy(array) for array in INPUTS.values()))
    (y * torch.from_numpy(weights)).sum().backward()
    return vectors[0].grad.numpy()


@pytest.mark.parametrize("form", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_eager_float64(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = MODELS[name]().eval()
    tapped = opened(tmp_path, module, form)
    plain = tapped.run(INPUTS, Look()).outputs
    weights = np.random.default_rng(2).standard_normal(plain["output_0"].shape)
    found = tapped.gradient(INPUTS, "output_0", weights)
    expected = by_autograd(module, weights)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
    np.testing.assert_array_equal(tapped.run(INPUTS, Look()).outputs["output_0"], plain["output_0"])


@pytest.mark.parametrize("form", ["traced", "frozen"])
@pytest.mark.parametrize("name", ["by hand", "lstm"])
def test_hidden_vectors_are_differentiated_too(name: str, form: str, tmp_path: Path) -> None:
    """By central differences of the same opened model, whose hidden vectors move with a delta."""
    tapped = opened(tmp_path, MODELS[name]().eval(), form)
    seen = tapped.run(INPUTS, Look(embedding=True, hidden=True))
    assert seen.hidden is not None
    assert seen.embedding is not None
    random = np.random.default_rng(3)
    weights = random.standard_normal(seen.hidden.shape).astype(np.float32)
    found = tapped.gradient(INPUTS, "hidden", weights)
    assert found is not None
    move = random.standard_normal(seen.embedding.shape).astype(np.float32)
    ends = [tapped.run(INPUTS, Look(hidden=True, delta=s * move)).hidden for s in (3e-3, -3e-3)]
    slope = ((ends[0].astype(np.float64) - ends[1]) * weights).sum() / 6e-3
    assert slope == pytest.approx(float((found * move).sum()), rel=5e-3)


def test_features_are_differentiated_by_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = modules.Packed().eval()
    tapped = engine(tmp_path, module).tapped()
    assert tapped is not None
    features = torch.randn(7, 2, modules.WIDTH, requires_grad=True)
    lengths = torch.tensor([7, 4])
    y = module(features, lengths)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    inputs = {"x": features.detach().numpy(), "lengths": lengths.numpy()}
    found = tapped.gradient(inputs, "output_0", weights.numpy())
    np.testing.assert_allclose(found, features.grad.numpy(), atol=1e-5)


class Rounded(nn.Module):
    """Answers with the class alone, which no derivative reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(modules.VOCABULARY, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens)).argmax(-1).float()


class WithoutGradient(Rounded):
    """Forbids autograd in its own code."""

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(self.embedding(tokens))


@pytest.mark.parametrize("form", [Rounded, WithoutGradient, modules.Counter])
def test_what_cannot_be_differentiated_has_no_gradient(
    form: type[nn.Module], tmp_path: Path
) -> None:
    tapped = engine(tmp_path, form()).tapped()
    assert tapped is not None
    inputs = {"tokens": TOKENS}
    shape = tapped.run(inputs, Look()).outputs["output_0"].shape
    assert tapped.gradient(inputs, "output_0", np.ones(shape, np.float32)) is None


def test_gradients_in_threads_leave_plain_runs_alone(tmp_path: Path) -> None:
    serving = engine(tmp_path, Classifier(Attention))
    tapped = serving.tapped()
    assert tapped is not None
    plain = serving.run(INPUTS)["output_0"]
    weights = np.ones(plain.shape, np.float32)
    expected = tapped.gradient(INPUTS, "output_0", weights)
    with ThreadPoolExecutor(4) as threads:
        gradients = [
            threads.submit(tapped.gradient, INPUTS, "output_0", weights) for _ in range(12)
        ]
        answers = [threads.submit(serving.run, INPUTS) for _ in range(12)]
    for gradient, answer in zip(gradients, answers, strict=True):
        np.testing.assert_array_equal(gradient.result(), expected)
        np.testing.assert_array_equal(answer.result()["output_0"], plain)
