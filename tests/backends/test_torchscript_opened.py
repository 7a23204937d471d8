"""TorchScript models opened up: what every opened model keeps, and what only TorchScript has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.tapped_contract import Opened, TappedContract
from tests.support import torchscript_modules as modules
from tests.support.torchscript_attention_modules import (
    Attention,
    BoolMasked,
    Classifier,
    Encoder,
    MultiHead,
)
from torch import Tensor, nn

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_engine import TorchScriptEngine, load
from seqlens.errors import BackendFailed, NotInModel

CPU = LoadOptions(device=Device("cpu"))


def engine(folder: Path, module: nn.Module, *example: Tensor) -> TorchScriptEngine:
    torch.manual_seed(0)
    path = folder / "model.pt"
    with modules.quiet():
        torch.jit.save(modules.made(module, *example), path)
    return load(path, CPU)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> TorchScriptEngine:
    torch.manual_seed(0)
    return engine(tmp_path_factory.mktemp("by_hand"), Classifier(Attention))


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> TorchScriptEngine:
    torch.manual_seed(0)
    return engine(tmp_path_factory.mktemp("fused"), Classifier(BoolMasked))


def again(serving: TorchScriptEngine) -> Opened:
    """An engine of its own over the same module: the suite closes it."""
    assert serving._runner is not None
    return Opened.of(TorchScriptEngine(serving._runner, serving.anatomy))


class TestByHand(TappedContract):
    @pytest.fixture
    def opened(self, by_hand: TorchScriptEngine) -> Opened:
        return again(by_hand)


class TestFused(TappedContract):
    @pytest.fixture
    def opened(self, fused: TorchScriptEngine) -> Opened:
        return again(fused)


def test_a_softmax_that_weighs_constants_is_no_attention(tmp_path: Path) -> None:
    opened = Opened.of(engine(tmp_path, modules.HandWritten()))
    assert opened.sites == tuple(s.name for s in opened.engine.anatomy.attention_sites)
    assert len(opened.sites) == 1


def test_additive_attention_pools_over_the_steps(tmp_path: Path) -> None:
    module = modules.Additive()
    opened = Opened.of(engine(tmp_path, module))
    (site,) = opened.sites
    inputs = opened.inputs(2, 6)
    found = opened.tapped.run(inputs, Look((site,))).weights[site]
    y = module.layers(module.embedding(torch.from_numpy(inputs["tokens"])))[0]
    expected = module.score(torch.tanh(module.inner(y))).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("nested", "norm_first"), [(False, False), (True, False), (False, True)])
def test_weights_times_values_make_what_a_whole_fused_layer_gives(
    nested: bool, norm_first: bool, tmp_path: Path
) -> None:
    opened = Opened.of(engine(tmp_path, Encoder(norm_first, nested)))
    inputs = opened.inputs(3, 8)
    inputs["lengths"] = np.array([8, 5, 1])
    for site in opened.sites:
        error = opened.tapped.product_error(inputs, site)
        assert error is not None
        assert 0 < error < 1e-5


@pytest.mark.parametrize("need_weights", [False, True])
def test_weights_times_values_make_what_a_fused_kernel_gives(
    need_weights: bool, tmp_path: Path
) -> None:
    opened = Opened.of(engine(tmp_path, MultiHead(need_weights)))
    (site,) = opened.sites
    error = opened.tapped.product_error(opened.inputs(), site)
    assert error is not None
    assert 0 < error < 1e-5


def test_weights_that_are_the_models_own_have_no_product_error(by_hand: TorchScriptEngine) -> None:
    opened = again(by_hand)
    assert opened.tapped.product_error(opened.inputs(), opened.sites[0]) is None


def test_rows_in_which_all_is_hidden_are_zero_in_fused_kernels(fused: TorchScriptEngine) -> None:
    opened = again(fused)
    inputs = opened.inputs(2, 5)
    inputs["lengths"] = np.array([5, 0])
    weights = opened.tapped.run(inputs, Look(opened.sites)).weights
    for each in weights.values():
        np.testing.assert_array_equal(each[1], 0)
        np.testing.assert_allclose(each[0].sum(-1), 1, atol=1e-6)


class Decoder(nn.Module):
    """Looks over all positions once for each of them, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(modules.VOCABULARY, modules.WIDTH)
        self.cell = nn.GRUCell(modules.WIDTH, modules.WIDTH)
        self.head = nn.Linear(modules.WIDTH, modules.CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        h, answers = x.mean(1), torch.jit.annotate(list[Tensor], [])
        for _ in range(tokens.size(1)):
            weights = torch.softmax((x @ h[:, :, None])[:, :, 0], -1)
            h = self.cell((weights[:, None] @ x)[:, 0], h)
            answers.append(torch.softmax(self.head(h), -1))
        return torch.stack(answers, 1)


def test_steps_of_a_loop_are_the_first_axis(tmp_path: Path) -> None:
    module = Decoder()
    opened = Opened.of(engine(tmp_path, module))
    (tap,) = opened.tapped.taps
    assert not tap.replaceable
    inputs = opened.inputs(2, 6)
    found = opened.tapped.run(inputs, Look((tap.site.name,))).weights[tap.site.name]
    with torch.no_grad():
        x = module.embedding(torch.from_numpy(inputs["tokens"]))
        h = x.mean(1)
        for step in found:
            expected = torch.einsum("btw,bw->bt", x, h).softmax(-1)
            np.testing.assert_allclose(step, expected.numpy(), atol=1e-5)
            h = module.cell(torch.einsum("bt,btw->bw", expected, x), h)
    assert len(found) == 6


class Skipping(Classifier):
    """Leaves its first layer out where no row is longer than three."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        x = self.embedding(tokens)
        if int(lengths.max()) > 3:
            x = self.layers[0](x, padding)
        x = self.layers[1](x, padding)
        return self.head(x)


def test_no_map_gets_the_name_of_another(tmp_path: Path) -> None:
    opened = Opened.of(engine(tmp_path, Skipping(Attention)))
    assert len(opened.sites) == 2
    opened.tapped.run(opened.inputs(2, 6), Look(opened.sites))
    with pytest.raises(BackendFailed, match="told apart"):
        opened.tapped.run(opened.inputs(2, 3), Look(opened.sites[:1]))


class InPlace(Classifier):
    """Writes over its embedding, its weights and its last vectors once they were used."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        looked_up = self.embedding(tokens)
        x = looked_up.clone()
        looked_up.zero_()
        weights = torch.softmax(x @ x.transpose(1, 2), -1)
        y = weights @ x + looked_up
        weights.mul_(0.0)
        return self.head(y) + weights.sum()


def test_what_is_written_over_later_is_seen_as_it_was(tmp_path: Path) -> None:
    module = InPlace(Attention)
    opened = Opened.of(engine(tmp_path, module))
    inputs = opened.inputs(2, 5)
    seen = opened.tapped.run(inputs, Look(opened.sites, embedding=True))
    expected = module.embedding(torch.from_numpy(inputs["tokens"])).detach()
    np.testing.assert_array_equal(seen.embedding, expected.numpy())
    weights = (expected @ expected.transpose(1, 2)).softmax(-1).numpy()
    np.testing.assert_allclose(seen.weights[opened.sites[0]], weights, atol=1e-5)


def test_a_module_that_keeps_state_is_looked_into_on_a_copy(tmp_path: Path) -> None:
    opened = Opened.of(engine(tmp_path, modules.Counter()))
    inputs = opened.inputs(2, 5)
    seen = [opened.tapped.run(inputs, Look(embedding=True)).outputs for _ in range(2)]
    for outputs in seen:
        np.testing.assert_array_equal(outputs["output_0"], opened.engine.run(inputs)["output_0"])


def test_features_are_their_own_embedding(tmp_path: Path) -> None:
    opened = Opened.of(engine(tmp_path, modules.TimeMajor()))
    inputs = opened.inputs(2, 5)
    seen = opened.tapped.run(inputs, Look(embedding=True, hidden=True))
    np.testing.assert_array_equal(seen.embedding, inputs["features"])
    expected = seen.outputs["output_0"].swapaxes(0, 1)
    np.testing.assert_array_equal(seen.hidden, expected)
    delta = np.ones_like(inputs["features"])
    moved = opened.tapped.run(inputs, Look(delta=delta)).outputs
    plain = opened.engine.run({"features": inputs["features"] + delta})
    np.testing.assert_array_equal(moved["output_0"], plain["output_0"])


class Table(nn.Module):
    """Looks ids up by indexing, and classifies each position."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(modules.VOCABULARY, modules.WIDTH))
        self.inner = nn.Linear(modules.WIDTH, modules.HIDDEN)
        self.head = nn.Linear(modules.HIDDEN, modules.CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        y = torch.tanh(self.inner(self.table[tokens]).cumsum(1))
        return torch.log_softmax(self.head(y), -1)


def test_hidden_vectors_are_those_in_front_of_the_head(tmp_path: Path) -> None:
    module = Table()
    opened = Opened.of(engine(tmp_path, module))
    inputs = opened.inputs(2, 5)
    seen = opened.tapped.run(inputs, Look(embedding=True, hidden=True))
    x = module.table[torch.from_numpy(inputs["tokens"])].detach()
    np.testing.assert_array_equal(seen.embedding, x.numpy())
    expected = torch.tanh(module.inner(x).cumsum(1)).detach().numpy()
    np.testing.assert_allclose(seen.hidden, expected, atol=1e-6)


class Bare(nn.Module):
    """Adds its ids up: no table, no vectors."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.float().sum(1)


def test_what_a_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    opened = Opened.of(engine(tmp_path, Bare()))
    with pytest.raises(NotInModel, match="no embedding"):
        opened.tapped.run(opened.inputs(), Look(embedding=True))
    with pytest.raises(NotInModel, match="one vector a position"):
        opened.tapped.run(opened.inputs(), Look(hidden=True))
    with pytest.raises(NotInModel, match="RNN, LSTM or GRU"):
        opened.tapped.run(opened.inputs(), Look(recurrences=True))
