from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import attention_table
from tests.support.torchscript_attention_modules import MODELS
from tests.support.torchscript_modules import VOCABULARY, exported, from_file, made, quiet
from torch import nn

from seqlens.backends.base import Device
from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_runner import Runner
from seqlens.backends.torchscript_tapped import TorchScriptTapped
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.graphs.signature import Signature
from seqlens.graphs.torchscript_attention import attention_sites
from seqlens.graphs.torchscript_flow import Flow

TOKENS = np.random.default_rng(5).integers(0, VOCABULARY, (3, 9))
LENGTHS = np.array([9, 6, 9])
INPUTS = {"tokens": TOKENS, "lengths": LENGTHS}
EXAMPLE = (torch.from_numpy(TOKENS[:2, :7]), torch.tensor([7, 4]))
SEQUENCE = InputRole.SEQUENCE
ANATOMY = ModelAnatomy(
    inputs=(
        InputAnatomy("tokens", "INT64", (-1, -1), SEQUENCE, 0, 1, vocabulary_size=VOCABULARY),
        InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
    ),
    outputs=(OutputAnatomy("output_0", "FP32", (-1, -1, -1), OutputRole.PER_STEP, 0, (1,)),),
    architecture=Architecture.TRANSFORMER,
    evidence=(),
    sequential_depth="O(1)",
)
FORMS = ("traced", "scripted", "frozen", "optimized")


def in_form(name: str, form: str) -> Any:
    if form == "traced":
        return exported(module_of(name), *EXAMPLE)
    scripted = scripted_of(name)
    with quiet():
        if form == "optimized":
            return torch.jit.optimize_for_inference(scripted)
        return from_file(torch.jit.freeze(scripted) if form == "frozen" else scripted)


@cache
def scripted_of(name: str) -> Any:
    with quiet():
        return made(module_of(name))


def opened(module: Any) -> tuple[Runner, TorchScriptTapped]:
    sites = tuple(found.site for found in attention_sites(Flow(module)))
    anatomy = replace(ANATOMY, attention_sites=sites)
    runner = Runner(module, Device("cpu"), False, Signature())
    return runner, TorchScriptTapped(runner, anatomy)


def module_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MODELS[name][0]().eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_every_form_are_those_of_eager_float64(name: str, form: str) -> None:
    module = module_of(name)
    runner, tapped = opened(in_form(name, form))
    assert tuple(tap.site for tap in tapped.taps) == tapped.anatomy.attention_sites
    sites = tuple(tap.site.name for tap in tapped.taps)
    assert len(sites) == MODELS[name][1]
    assert tapped.untapped == ()
    plain = runner.run(INPUTS)
    seen = tapped.run(INPUTS, Look(sites=sites))
    np.testing.assert_array_equal(seen.outputs["output_0"], plain["output_0"])
    real = np.arange(9)[None] < LENGTHS[:, None]
    expected = module.reference(torch.from_numpy(TOKENS), torch.from_numpy(LENGTHS))
    error = 0.0
    for site, reference in zip(sites, expected, strict=True):
        weights = seen.weights[site].reshape(reference.shape)
        queries = real if reference.shape[2] == 9 else np.ones((3, 1), bool)
        apart = np.abs(weights - reference.detach().numpy()).swapaxes(1, 2)[queries]
        error = max(error, float(apart.max()))
    assert error < 1e-5
    operators = {tap.site.operator for tap in tapped.taps}
    attention_table.record(name, f"TorchScript, {form}", operators, len(sites), error)
