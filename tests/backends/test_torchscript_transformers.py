"""Transformers as Hugging Face builds them, traced and frozen, against their eager attentions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.tapped_contract import Opened
from tests.backends.test_torchscript_opened import CPU
from tests.support.torchscript_modules import quiet
from tests.support.transformers_models import (
    HEADS,
    KINDS,
    Answering,
    asked,
    eager_weights,
    made,
)

from seqlens.attention.proof import prove_sites
from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_engine import load


@pytest.mark.parametrize(("attention", "form"), [("eager", "traced"), ("sdpa", "frozen")])
@pytest.mark.parametrize("name", KINDS)
def test_weights_are_those_of_eager_attentions_and_proved(
    name: str, attention: str, form: str, tmp_path: Path
) -> None:
    with quiet(), torch.no_grad():
        example = tuple(asked(name, 2, 7).values())
        answering = Answering(made(name, attention)).eval()
        module = torch.jit.trace(answering, example, check_trace=False)
        torch.jit.save(torch.jit.freeze(module) if form == "frozen" else module, tmp_path / "m.pt")
    opened = Opened.of(load(tmp_path / "m.pt", CPU))
    sites = opened.engine.anatomy.attention_sites
    assert [site.kind for site in sites] == KINDS[name]
    assert tuple(tap.site for tap in opened.tapped.taps) == sites

    inputs = asked(name, 3, 9)
    arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
    seen = opened.tapped.run(arrays, Look(opened.sites))
    np.testing.assert_array_equal(seen.outputs["output_0"], opened.engine.run(arrays)["output_0"])
    expected = eager_weights(name, inputs)
    for weights, reference in zip(seen.weights.values(), expected, strict=True):
        np.testing.assert_allclose(weights, reference.numpy(), atol=1e-5)

    report = prove_sites(opened.tapped, opened.engine.run, seconds=20)
    assert report.findings == ()
    for site in report.sites:
        assert site.axes == ("batch", "head", "query", "key")
        assert site.site.heads == HEADS
