"""Influence and gates of exported models, in both formats, against autograd of eager PyTorch."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.support import onnx_models, torchscript_modules
from tests.support.onnx_models import Recurrent, Transformer
from torch import Tensor, nn

from seqlens.attention.forecast import predict
from seqlens.attention.gates import read_gates
from seqlens.attention.influence import measure
from seqlens.attention.questions import (
    Cost,
    GateLayer,
    GateQuestion,
    InfluenceAnswer,
    InfluenceQuestion,
    Target,
)
from seqlens.backends.base import LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.tapped import TappedModel
from seqlens.backends.torchscript import TorchScriptBackend
from seqlens.sequences import Array, InputSequence
from seqlens_zoo.weights import load_body

LENGTH = 6
EXACT = 2e-6  # relative: the models themselves are float32
CENTRAL = 2e-3
ALL = 1_000  # directions: as many as there are
FORMATS = ("onnx", "torchscript")
NETS = [("RNN", False), ("LSTM", False), ("GRU", True)]


def written(module: nn.Module, kind: str, folder: Path) -> TappedModel:
    """The module exported, loaded and opened."""
    example = torch.ones(2, LENGTH, dtype=torch.int64)
    if kind == "onnx":
        onnx.save(onnx_models.export(module, [example], ["x"]), folder / "model.onnx")
        engine = OnnxBackend().load(folder / "model.onnx", LoadOptions())
    else:
        with torchscript_modules.quiet():
            torch.jit.save(torchscript_modules.made(module, example), folder / "model.pt")
        engine = TorchScriptBackend().load(folder / "model.pt", LoadOptions())
    tapped = engine.tapped()
    assert tapped is not None
    return tapped


def of(tapped: TappedModel, ids: Array) -> InputSequence:
    return InputSequence({tapped.anatomy.sequence_inputs[0].name: ids}, len(ids))


def ask(tapped: TappedModel, question: InfluenceQuestion, ids: Array) -> InfluenceAnswer:
    return measure(tapped, [of(tapped, ids)], question, together=True, cost=Cost(0, 0.0))


def norms(run: Callable[[Tensor], Tensor], vectors: Tensor, element: int | None = None) -> Array:
    """Norms of derivatives [rows, positions] of what ``run`` gives, [rows, width]."""
    full = torch.autograd.functional.jacobian(run, vectors)
    full = full if element is None else full[:, element : element + 1]
    return full.square().sum((1, 3)).sqrt().numpy()


@pytest.fixture(params=NETS, ids=lambda net: f"{net[0]}-{'both' if net[1] else 'forward'}")
def net(request: pytest.FixtureRequest) -> Recurrent:
    torch.manual_seed(1)
    kind, both = request.param
    return Recurrent(kind, bidirectional=both).eval()


@pytest.fixture(params=FORMATS)
def opened(net: Recurrent, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TappedModel]:
    tapped = written(net, request.param, tmp_path)
    yield tapped
    tapped.close()


IDS = np.array([3, 14, 15, 9, 2, 6])


def test_hidden_states_exactly(net: Recurrent, opened: TappedModel) -> None:
    question = InfluenceQuestion(("jacobian",), Target("hidden"), exact=True)
    (found,) = ask(opened, question, IDS).maps
    exact = deepcopy(net).double()
    vectors = exact.embedding(torch.from_numpy(IDS)).detach()
    expected = norms(lambda x: exact.layers(x[None])[0][0], vectors)
    assert found.method == (
        "autograd" if "TorchScript" in opened.anatomy.producer else "closed_form"
    )
    np.testing.assert_allclose(found.values, expected, rtol=EXACT, atol=1e-9)
    np.testing.assert_array_equal(found.shares > 0, expected > 0)


def test_logits_by_differences(net: Recurrent, opened: TappedModel) -> None:
    exact = deepcopy(net).double()
    vectors = exact.embedding(torch.from_numpy(IDS)).detach()
    for element in (None, 2):
        target = Target(class_index=element)
        question = InfluenceQuestion(("jacobian",), target, directions=ALL)
        (found,) = ask(opened, question, IDS).maps
        run = lambda x: exact.output(exact.layers(x[None])[0])[0]  # noqa: E731
        expected = norms(run, vectors, element)
        assert found.method == "central_differences"
        error = np.abs(found.values - expected)
        assert (error <= CENTRAL * expected + found.floors[:, None]).all()
        assert not found.values[expected == 0].any()  # later positions: exactly nothing


def test_gradients_are_foretold_by_one_of_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tapped = written(Recurrent("GRU").eval(), "torchscript", tmp_path)
    question = InfluenceQuestion(("jacobian",), Target("hidden"), exact=True)
    slow, quick = (
        predict(tapped, question, [9], lambda length, rows, told=told: told) for told in (100, 1e-6)
    )
    tapped.close()
    runs = slow.runs - 1  # beside a look
    assert runs == -(-9 * onnx_models.HIDDEN // 32)
    assert slow.seconds == 100 * (1 + 3 * runs)
    assert quick.seconds > 100 * 1e-6 * runs


def test_gradients_that_are_lost_in_half_precision_lie_below_the_floor(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = Recurrent("LSTM", head="last").eval()
    ids = np.random.default_rng(0).integers(0, onnx_models.VOCABULARY, 60)
    exact = deepcopy(net).half().double()  # with the weights that the model has
    vectors = exact.embedding(torch.from_numpy(ids)).detach()
    expected = norms(lambda x: exact.output(exact.layers(x[None])[0][:, -1]), vectors, 2)
    tapped = written(net.half(), "torchscript", tmp_path)
    question = InfluenceQuestion(("jacobian",), Target(class_index=2), exact=True)
    (found,) = ask(tapped, question, ids).maps
    tapped.close()
    assert found.method == "autograd"
    error = np.abs(found.values - expected)
    assert (error <= 0.02 * expected + found.floors[:, None]).all()
    assert (found.values <= found.floors[:, None]).sum() > 10
    assert found.values.max() > 1_000 * found.floors[0]


def test_occlusion_is_how_far_eager_answers_move(net: Recurrent, opened: TappedModel) -> None:
    (found,) = ask(opened, InfluenceQuestion(replacement_tokens=(1, 20)), IDS).maps
    expected = np.zeros((LENGTH, LENGTH))
    with torch.no_grad():
        base = net(torch.from_numpy(IDS)[None])[0]
        for position in range(LENGTH):
            for token in (1, 20):
                copy = torch.from_numpy(IDS.copy())
                copy[position] = token
                moved = (net(copy[None])[0] - base).norm(dim=1)
                expected[:, position] += moved.numpy() / 2
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert not found.values[expected == 0].any()


def test_gates_of_both_formats_agree(tmp_path: Path) -> None:
    torch.manual_seed(2)
    for kind, both in NETS[1:]:
        net = Recurrent(kind, bidirectional=both).eval()
        readings = []
        for form in FORMATS:
            tapped = written(net, form, tmp_path)
            rows = [of(tapped, IDS), of(tapped, IDS[:4])]
            layers = list(read_gates(tapped, rows, GateQuestion(full=True), together=True))
            tapped.close()
            assert max(layer.recomputed_error for layer in layers) < 1e-6
            readings.append(_by_name(layers))
        first, second = readings
        assert first.keys() == second.keys()
        for key, values in first.items():
            np.testing.assert_allclose(values, second[key], atol=1e-6)


def _by_name(layers: list[GateLayer]) -> dict[tuple[int, str, int, str], Array]:
    return {
        (layer.layer, layer.direction, one.sequence, one.gate): one.values
        for layer in layers
        for one in layer.readings
    }


class Causal(nn.Module):
    """A causal transformer over ids alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Transformer(causal=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, torch.ones_like(x))


@pytest.mark.parametrize("form", FORMATS)
def test_a_causal_transformer_is_asked_the_same(form: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    tapped = written(Causal().eval(), form, tmp_path)
    question = InfluenceQuestion(("occlusion", "jacobian"), directions=ALL)
    occlusion, jacobian = ask(tapped, question, IDS).maps
    exact = ask(tapped, replace(question, exact=True), IDS).maps[1]
    tapped.close()
    assert exact.method == ("autograd" if form == "torchscript" else "central_differences")
    error = np.abs(jacobian.values - exact.values)
    assert (error <= CENTRAL * exact.values + jacobian.floors[:, None]).all()
    for one in (occlusion, jacobian, exact):
        assert not np.triu(one.values, 1).any()
        assert (one.values[np.tril_indices(LENGTH)] > 0).all()


@pytest.mark.parametrize("body", ["rnn", "lstm", "transformer"])
def test_the_example_models_in_both_formats(body: str, repository: Path) -> None:
    ids = np.random.default_rng(5).integers(4, 157, 8)
    exact = deepcopy(load_body(body)).double()
    vectors = exact.embedding(torch.from_numpy(ids)).detach()
    length = torch.tensor([len(ids)])
    expected = norms(lambda x: exact.head(exact.body(x[None], length)[:, -1]), vectors, 7)
    occlusions = []
    for form, backend in (("onnx", OnnxBackend()), ("torchscript", TorchScriptBackend())):
        (file,) = (repository / f"{body}-{form}" / "1").iterdir()
        tapped = backend.load(file, LoadOptions()).tapped()
        question = InfluenceQuestion(
            ("occlusion", "jacobian"), Target(class_index=7), directions=ALL, exact=True
        )
        occlusion, jacobian = ask(tapped, question, ids).maps
        tapped.close()
        tolerance = EXACT if jacobian.method == "autograd" else CENTRAL
        assert jacobian.method == ("autograd" if form == "torchscript" else "central_differences")
        np.testing.assert_allclose(jacobian.values, expected, rtol=tolerance)
        occlusions.append(occlusion)
    first, second = (one.values for one in occlusions)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert (np.abs(first - second) < occlusions[0].floors[:, None] * 2).all()
