"""Attention weights of fused kernels, recomputed from the operands that the kernels read.

After torch 2.13: ``aten/src/ATen/native/transformers/{attention,transformer}.cpp``.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seqlens.backends.torchscript_calls import Call

_OVER_QUERIES = 0  # kind of a mask: [queries, keys]; 1: [batch, keys]; 2: one a score


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Weights, and what the kernel should make of them."""

    weights: Tensor  # [..., queries, keys], float32 or float64
    product: Tensor  # of the form of the kernel's first output


def recomputed(call: Call) -> Recomputed:
    """Compute the weights of a fused kernel again, in float32 or, if it has it, float64."""
    if call.name == "aten::_transformer_encoder_layer_fwd":
        return _encoder_layer(call)
    if call.name == "aten::_native_multi_head_attention":
        return _multi_head(call)
    return _scaled_dot_product(call)


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two tensors where the first one is finite."""
    one, other = padded(one), padded(other)
    finite = one.isfinite()
    apart = (one - other.to(one.dtype))[finite].abs()
    return float(apart.max()) if apart.numel() else 0.0


def padded(tensor: Tensor) -> Tensor:
    """A nested tensor with zeros in its padding; any other as it is."""
    return tensor.to_padded_tensor(0.0) if tensor.is_nested else tensor


def _scaled_dot_product(call: Call) -> Recomputed:
    query, key, value = (precise(call.get(name)) for name in ("query", "key", "value"))
    if query.shape[-3:-2] != key.shape[-3:-2] and query.dim() > 3:  # groups of heads share keys
        group = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(group, -3) for t in (key, value))
    scale = call.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if call.get("is_causal", False):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    mask = call.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:  # of the scores' own type: a mask of another one gave wrong values
        scores = scores + mask.to(scores.dtype)
    weights = _softmax(scores)
    return Recomputed(weights, weights @ value)


def _multi_head(call: Call) -> Recomputed:
    weight, bias = precise(call.get("qkv_weight")), precise(call.get("qkv_bias"))
    tensors = (call.get(name) for name in ("query", "key", "value"))
    heads = call.get("num_head")
    projected = (
        functional.linear(precise(padded(tensor)), part, part_bias)
        for tensor, part, part_bias in zip(tensors, weight.chunk(3), bias.chunk(3), strict=True)
    )
    query, key, value = (_split(tensor, heads) for tensor in projected)
    weights = _weights(query, key, _mask(call, call.get("query")), call.get("mask_type"))
    return Recomputed(weights, _joined(call, weights, value))


def _encoder_layer(call: Call) -> Recomputed:
    source = precise(padded(call.get("src")))
    heads, before = call.get("num_heads"), call.get("norm_first")
    given = _norm(call, source, 1) if before else source
    projected = functional.linear(given, precise(call.get("qkv_weight")), _bias(call, "qkv_bias"))
    query, key, value = (_split(tensor, heads) for tensor in projected.chunk(3, -1))
    weights = _weights(query, key, _mask(call, call.get("src")), call.get("mask_type"))
    summed = source + _joined(call, weights, value)
    if not before:
        summed = _norm(call, summed, 1)
    wide = functional.linear(
        _norm(call, summed, 2) if before else summed,
        precise(call.get("ffn_weight_1")),
        _bias(call, "ffn_bias_1"),
    )
    wide = functional.gelu(wide) if call.get("use_gelu") else functional.relu(wide)
    narrow = functional.linear(wide, precise(call.get("ffn_weight_2")), _bias(call, "ffn_bias_2"))
    product = summed + narrow if before else _norm(call, summed + narrow, 2)
    if call.get("src").is_nested:  # whose padding is zero by definition
        product = product * _real(call.get("src"))[..., None]
    return Recomputed(weights, product)


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it has it."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _bias(call: Call, name: str) -> Tensor:
    return precise(call.get(name))


def _norm(call: Call, tensor: Tensor, number: int) -> Tensor:
    weight, bias = call.get(f"norm_weight_{number}"), call.get(f"norm_bias_{number}")
    return functional.layer_norm(
        tensor, tensor.shape[-1:], precise(weight), precise(bias), call.get("eps")
    )


def _split(tensor: Tensor, heads: int) -> Tensor:
    """[batch, time, width] to [batch, heads, time, width of a head]."""
    return tensor.view(*tensor.shape[:-1], heads, -1).transpose(1, 2)


def _joined(call: Call, weights: Tensor, value: Tensor) -> Tensor:
    vectors = (weights @ value).transpose(1, 2).flatten(2)
    return functional.linear(vectors, precise(call.get("proj_weight")), _bias(call, "proj_bias"))


def _mask(call: Call, source: Tensor) -> Tensor | None:
    """What hides keys, [batch, keys] for nested tensors."""
    mask: Any = call.get("mask")
    return ~_real(source) if source.is_nested else mask


def _real(nested: Tensor) -> Tensor:
    lengths = nested._nested_tensor_size()[:, 0].to(nested.device)
    places = torch.arange(int(lengths.max()), device=nested.device)
    return places[None] < lengths[:, None]


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, kind: int | None) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is None:
        return _softmax(scores)
    if mask.dim() == 2:  # a mask of both kinds has one entry for each score
        over_queries = kind == _OVER_QUERIES
        mask = mask[None, None] if over_queries else mask[:, None, None]
    # The kernel reads a mask of numbers as one of truth values.
    return _softmax(scores.masked_fill(mask.bool(), -math.inf))


def _softmax(scores: Tensor) -> Tensor:
    """Rows in which all is hidden become zero, as in the kernels."""
    weights = scores.softmax(-1)
    return weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
