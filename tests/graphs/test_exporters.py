"""Attention in ONNX, however it was exported: the weights are those of eager PyTorch.

The newer exporter takes seconds a model, so ``make test`` exports a few models by it, and
``make attention`` all.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import attention_table
from tests.support.torchscript_attention_modules import MODELS
from tests.support.torchscript_modules import VOCABULARY
from torch import nn

from seqlens.backends.base import LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.tapped import Look

TOKENS = np.random.default_rng(5).integers(0, VOCABULARY, (3, 9))
LENGTHS = np.array([9, 6, 9])
NAMES = ["tokens", "lengths"]
FIRST_DYNAMO = 18  # opset; lower ones are exported through TorchScript


def export(name: str, opset: int, path: Path) -> nn.Module:
    torch.manual_seed(3)
    module: nn.Module = MODELS[name][0]().eval()
    example = (torch.from_numpy(TOKENS), torch.from_numpy(LENGTHS))
    axes: dict[str, Any] = {"dynamo": False, "dynamic_axes": {n: {0: "batch"} for n in NAMES}}
    axes["dynamic_axes"]["tokens"][1] = "sequence"
    if opset >= FIRST_DYNAMO:
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        axes = {"dynamo": True, "dynamic_shapes": ({0: batch, 1: sequence}, {0: batch})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        torch.onnx.export(
            module, example, path, opset_version=opset, input_names=NAMES, verbose=False, **axes
        )
    return module


def compare(name: str, opset: int, folder: Path) -> None:
    module = export(name, opset, folder / "model.onnx")
    engine = OnnxBackend().load(folder / "model.onnx", LoadOptions())
    tapped = engine.tapped()
    assert tapped is not None
    given = {"tokens": TOKENS, "lengths": LENGTHS}
    inputs = {name: given[name] for name in engine.anatomy.input_names}
    sites = tuple(tap.site.name for tap in tapped.taps)
    seen = tapped.run(inputs, Look(sites=sites))
    plain = engine.run(inputs)
    for output, array in plain.items():
        np.testing.assert_array_equal(seen.outputs[output], array)
    expected = module.reference(torch.from_numpy(TOKENS), torch.from_numpy(LENGTHS))
    assert len(sites) == len(expected)
    error = max(apart(seen.weights[s], e) for s, e in zip(sites, expected, strict=True))
    assert error < 1e-5
    exporter = "dynamo" if opset >= FIRST_DYNAMO else "legacy"
    operators = {tap.site.operator for tap in tapped.taps}
    attention_table.record(name, f"ONNX {exporter} opset {opset}", operators, len(sites), error)


def apart(weights: np.ndarray, expected: torch.Tensor) -> float:
    """Largest difference at queries that are no padding."""
    reference = expected.detach().numpy()
    real = np.arange(TOKENS.shape[1])[None] < LENGTHS[:, None]
    queries = real if reference.shape[2] == TOKENS.shape[1] else np.ones((len(TOKENS), 1), bool)
    difference = np.abs(weights.reshape(reference.shape) - reference)
    return float(difference.swapaxes(1, 2)[queries].max())


# What the exporters themselves refuse.
LEGACY_REFUSES = {"Grouped"}  # enable_gqa
DYNAMO_REFUSES = {"CausalEncoder", "BothMasksEncoder", "EncoderDecoder"}  # guards on data
LEGACY_MODELS = [n for n in MODELS if n not in LEGACY_REFUSES]
DYNAMO_MODELS = [n for n in MODELS if n not in DYNAMO_REFUSES]
QUICK = (("Attention", 18), ("BoolMasked", 23), ("Encoder", 24))


@pytest.mark.parametrize("name", LEGACY_MODELS)
def test_weights_of_the_older_exporter_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    compare(name, 17, tmp_path)


@pytest.mark.parametrize(("name", "opset"), QUICK)
def test_weights_of_the_newer_exporter_are_those_of_pytorch(
    name: str, opset: int, tmp_path: Path
) -> None:
    compare(name, opset, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("opset", [14, 18, 20, 23, 24])
def test_weights_of_every_model_and_opset_are_those_of_pytorch(opset: int, tmp_path: Path) -> None:
    for name in LEGACY_MODELS if opset < FIRST_DYNAMO else DYNAMO_MODELS:
        compare(name, opset, tmp_path)
