"""Transformers as Hugging Face builds them, traced and frozen, against their eager attentions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.tapped_contract import Opened
from tests.backends.test_torchscript_opened import CPU
from tests.support.torchscript_modules import quiet
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5Model,
)

from seqlens.attention.proof import prove_sites
from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_engine import load

_VOCABULARY, _WIDTH, _HEADS = 37, 32, 4
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_USUAL = {
    "vocab_size": _VOCABULARY,
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": _HEADS,
    "intermediate_size": 48,
    **_SPECIAL,
}
_BART = {f"{part}_attention_heads": _HEADS for part in ("encoder", "decoder")}
_BART |= {f"{part}_layers": 1 for part in ("encoder", "decoder")}
_SELF, _DECODER = ["self", "self"], ["self", "cross"]

# How to make each, and the kinds of its sites in order of execution.
_MODELS: Mapping[str, tuple[Callable[..., Any], list[str]]] = {
    "bert": (lambda **how: BertModel(BertConfig(**_USUAL, **how)), _SELF),
    "gpt2": (
        lambda **how: GPT2Model(
            GPT2Config(vocab_size=_VOCABULARY, n_embd=_WIDTH, n_layer=2, n_head=_HEADS, **how)
        ),
        _SELF,
    ),
    "llama": (
        lambda **how: LlamaModel(LlamaConfig(**_USUAL, num_key_value_heads=2, **how)),
        _SELF,
    ),
    "t5": (
        lambda **how: T5Model(
            T5Config(
                vocab_size=_VOCABULARY,
                d_model=_WIDTH,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=_HEADS,
                **how,
            )
        ),
        [*_SELF, *_DECODER, *_DECODER],
    ),
    "bart": (  # makes what its decoder reads by writing into a view of zeros
        lambda **how: BartModel(
            BartConfig(vocab_size=_VOCABULARY, d_model=_WIDTH, **_BART, **_SPECIAL, **how)
        ),
        ["self", *_DECODER],
    ),
}


class Answering(nn.Module):
    """A transformer that answers one tensor."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        more = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        answer = self.transformer(input_ids, attention_mask=attention_mask, **more)
        return answer.last_hidden_state


def made(name: str, attention: str) -> nn.Module:
    torch.manual_seed(0)
    special = {} if name in ("bert", "llama", "bart") else _SPECIAL
    if name == "t5":
        special = {"decoder_start_token_id": 0}
    cache = {} if name == "bert" else {"use_cache": False}
    module = _MODELS[name][0](attn_implementation=attention, **special, **cache).eval()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return module


def asked(name: str, rows: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, _VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"decoder_input_ids": ids[:, :5].flip(1)} if name == "t5" else {})


def eager_weights(name: str, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        answer = made(name, "eager")(**inputs, output_attentions=True)
    if "encoder_attentions" not in answer:
        return list(answer.attentions)
    layers = zip(answer.decoder_attentions, answer.cross_attentions, strict=True)
    return [*answer.encoder_attentions, *(weights for layer in layers for weights in layer)]


@pytest.mark.parametrize(("attention", "form"), [("eager", "traced"), ("sdpa", "frozen")])
@pytest.mark.parametrize("name", _MODELS)
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
    assert [site.kind for site in sites] == _MODELS[name][1]
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
        assert site.site.heads == _HEADS
