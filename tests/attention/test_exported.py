"""Maps of exported models, proved and drawn, against eager PyTorch, in both formats."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.support import onnx_models, torchscript_modules
from torch import Tensor, nn

from seqlens.attention.maps import choose_sites, draw
from seqlens.attention.proof import prove_sites
from seqlens.attention.selection import AttentionSelection, SiteMaps
from seqlens.attention.sites import AttentionReport
from seqlens.backends.base import Engine, LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.torchscript import TorchScriptBackend
from seqlens.sequences import Array, InputSequence

TOLERANCE = 1e-5
LENGTHS = (5, 9, 8, 12)


def torchscript(module: nn.Module, example: dict[str, Tensor], folder: Path) -> Engine:
    path = folder / "model.pt"
    with torchscript_modules.quiet():
        torch.jit.save(torchscript_modules.made(module, *example.values()), path)
    return TorchScriptBackend().load(path, LoadOptions())


def exported(module: nn.Module, example: dict[str, Tensor], folder: Path) -> Engine:
    free = {
        name: {axis: f"{name}_{axis}" if axis else "b" for axis in range(value.ndim)}
        for name, value in example.items()
    }
    model = onnx_models.export(module, list(example.values()), list(example), free)
    onnx.save(model, folder / "model.onnx")
    return OnnxBackend().load(folder / "model.onnx", LoadOptions())


FORMATS = {"torchscript": torchscript, "onnx": exported}
Load = Callable[[nn.Module, dict[str, Tensor], Path], Engine]


@contextmanager
def eager_maps(module: nn.Module) -> Iterator[list[Array]]:
    """All softmaxes over attention scores that run meanwhile, and those of nn's attention."""
    maps: list[Array] = []
    softmax = torch.softmax

    def kept(scores: Tensor, dim: int) -> Tensor:
        weights = softmax(scores, dim)
        maps.append(weights.detach().numpy())
        return weights

    attend = nn.MultiheadAttention.forward

    def watched(self: nn.MultiheadAttention, *values: Any, **options: Any) -> Any:
        options |= {"need_weights": True, "average_attn_weights": False}
        answer, weights = attend(self, *values, **options)
        maps.append(weights.detach().numpy())
        return answer, weights

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "softmax", kept)
        patch.setattr(nn.MultiheadAttention, "forward", watched)
        # The fused kernel of a whole layer would pass the attention module by.
        patch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
        yield maps


def proved(engine: Engine) -> tuple[Any, AttentionReport]:
    tapped = engine.tapped()
    assert tapped is not None
    return tapped, prove_sites(tapped, engine.run, seconds=30)


def drawn(
    tapped: Any, report: AttentionReport, sequences: list[InputSequence], *, together: bool
) -> dict[str, list[Array]]:
    sites = choose_sites(report, AttentionSelection())
    found: dict[str, list[Array]] = {}
    for item in draw(tapped, sites, sequences, AttentionSelection(), together=together):
        assert isinstance(item, SiteMaps)
        assert [one.sequence for one in item.maps] == list(range(len(sequences)))
        found[item.site.name] = [one.weights for one in item.maps]
    return found


def sequences_of(names: dict[str, tuple[int, ...]]) -> list[InputSequence]:
    """Random ids; the first input's lengths are those of the sequences."""
    random = np.random.default_rng(0)
    rows = [
        {name: random.integers(0, 20, length) for name, length in zip(names, lengths, strict=True)}
        for lengths in zip(*names.values(), strict=True)
    ]
    return [InputSequence(row, len(next(iter(row.values())))) for row in rows]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("load", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("module", ["HandWritten", "Additive"])
def test_maps_are_those_of_eager_pytorch(
    module: str, load: Load, together: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    eager = getattr(torchscript_modules, module)().eval()
    engine = load(eager, {"tokens": torch.ones(2, 6, dtype=torch.int64)}, tmp_path)
    tapped, report = proved(engine)
    assert [site.proof.reason for site in report.sites] == [""]
    assert not report.sites[0].bears_padding  # neither looks at lengths
    sequences = sequences_of({"tokens": LENGTHS})
    (maps,) = drawn(tapped, report, sequences, together=together).values()
    for one, got in zip(sequences, maps, strict=True):
        with eager_maps(eager) as expected:
            eager(torch.from_numpy(one.inputs["tokens"])[None])
        weights = expected[0] if module == "HandWritten" else expected[0].transpose(0, 2, 1)
        np.testing.assert_allclose(got, weights, atol=TOLERANCE, rtol=0)


def test_padding_is_hidden_by_lengths_and_batches_stay_exact(tmp_path: Path) -> None:
    torch.manual_seed(1)
    eager = torchscript_modules.Encoder().eval()
    example = {
        "tokens": torch.ones(2, 6, dtype=torch.int64), "lengths": torch.tensor([6, 4])
    }  # fmt: skip
    engine = torchscript(eager, example, tmp_path)
    tapped, report = proved(engine)
    assert [site.proof.reason for site in report.sites] == ["", ""]
    assert all(site.bears_padding for site in report.sites)
    assert all(site.proof.padding_weight == 0.0 for site in report.sites)
    sequences = sequences_of({"tokens": LENGTHS})
    found = drawn(tapped, report, sequences, together=True)
    for number, one in enumerate(sequences):
        with eager_maps(eager) as expected:
            eager(torch.from_numpy(one.inputs["tokens"])[None], torch.tensor([one.length]))
        for maps, weights in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(maps[number], weights[0], atol=TOLERANCE, rtol=0)


def test_an_encoder_and_a_decoder_have_lengths_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(1)
    eager = torchscript_modules.EncoderDecoder().eval()
    example = {
        "source": torch.ones(2, 6, dtype=torch.int64), "target": torch.ones(2, 4, dtype=torch.int64)
    }  # fmt: skip
    engine = torchscript(eager, example, tmp_path)
    tapped, report = proved(engine)
    assert [site.proof.reason for site in report.sites] == ["", "", ""]
    sequences = sequences_of({"source": (5, 9), "target": (3, 4)})
    found = drawn(tapped, report, sequences, together=False)
    for number, one in enumerate(sequences):
        with eager_maps(eager) as expected:
            eager(*(torch.from_numpy(one.inputs[name])[None] for name in example))
        for maps, weights in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(maps[number], weights[0], atol=TOLERANCE, rtol=0)
