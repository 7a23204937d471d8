"""Transformers as Hugging Face builds them, exported to ONNX, against their eager attentions."""

import numpy as np
import pytest
from onnx import ModelProto
from tests.support import attention_table
from tests.support.onnx_models import export
from tests.support.onnx_taps import tapped
from tests.support.transformers_models import KINDS, Answering, asked, eager_weights, made

from seqlens.graphs.onnx_graph import read_onnx

EXACT = 1e-5


def exported(name: str, attention: str) -> ModelProto:
    example = asked(name, 2, 7)
    names = list(example)
    axes = {n: {0: "batch", 1: "asked" if n.startswith("decoder") else "time"} for n in names}
    module = Answering(made(name, attention))
    return export(module, list(example.values()), names, axes)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_weights_are_those_of_eager_attentions(name: str, attention: str) -> None:
    model = exported(name, attention)
    sites = read_onnx(model).attention_sites
    assert [site.kind for site in sites] == KINDS[name]
    inputs = asked(name, 3, 9)
    found = tapped(model, {key: tensor.numpy() for key, tensor in inputs.items()})
    expected = [weights.numpy() for weights in eager_weights(name, inputs)]
    errors = [np.abs(f - e).max() for f, e in zip(found, expected, strict=True)]
    assert max(errors) < EXACT
    operators = {site.operator for site in sites}
    form = f"ONNX legacy opset 17, {attention}"
    attention_table.record(f"transformers {name}", form, operators, len(sites), max(errors))
