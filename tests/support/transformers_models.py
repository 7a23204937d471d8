"""Small random transformers as Hugging Face builds them, and their eager attentions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
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

VOCABULARY, WIDTH, HEADS = 37, 32, 4
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    **_SPECIAL,
}
_BART = {f"{part}_attention_heads": HEADS for part in ("encoder", "decoder")}
_BART |= {f"{part}_layers": 1 for part in ("encoder", "decoder")}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, **_SPECIAL}
_T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2}
_NO_CACHE = {"use_cache": False}
_SELF, _DECODER = ["self", "self"], ["self", "cross"]

_MAKERS: Mapping[str, Callable[..., Any]] = {
    "bert": lambda **how: BertModel(BertConfig(**_USUAL, **how)),
    "gpt2": lambda **how: GPT2Model(GPT2Config(**_GPT2, **_NO_CACHE, **how)),
    # Two heads share their keys and values.
    "llama": lambda **how: LlamaModel(
        LlamaConfig(**_USUAL, num_key_value_heads=2, **_NO_CACHE, **how)
    ),
    "t5": lambda **how: T5Model(
        T5Config(**_T5, num_heads=HEADS, decoder_start_token_id=0, **_NO_CACHE, **how)
    ),
    # Makes what its decoder reads by writing into a view of zeros.
    "bart": lambda **how: BartModel(
        BartConfig(vocab_size=VOCABULARY, d_model=WIDTH, **_BART, **_SPECIAL, **_NO_CACHE, **how)
    ),
}
# The kinds of the sites of each, in order of execution.
KINDS: Mapping[str, list[str]] = {
    "bert": _SELF,
    "gpt2": _SELF,
    "llama": _SELF,
    "t5": [*_SELF, *_DECODER, *_DECODER],
    "bart": ["self", *_DECODER],
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
    """A model in eval mode, ``attention`` "eager" or "sdpa"; its weights are always the same."""
    torch.manual_seed(0)
    module = _MAKERS[name](attn_implementation=attention).eval()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)  # as it comes, its attention is all but uniform
    return module


def asked(name: str, rows: int, length: int) -> dict[str, Tensor]:
    """Inputs of a model, the second row half padding; a T5's decoder reads five tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"decoder_input_ids": ids[:, :5].flip(1)} if name == "t5" else {})


def eager_weights(name: str, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Weights [batch, head, query, key] of each site, in order of execution."""
    with torch.no_grad():
        return attentions(made(name, "eager")(**inputs, output_attentions=True))


def attentions(answer: Any) -> list[Tensor]:
    """What a model answers as its attentions, in order of execution."""
    if "encoder_attentions" not in answer:
        return list(answer.attentions)
    layers = zip(answer.decoder_attentions, answer.cross_attentions, strict=True)
    return [*answer.encoder_attentions, *(weights for layer in layers for weights in layer)]
