"""Attention weights of the example Transformer in eager PyTorch, and messages that hold them."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.ragged import pack
from seqlens_zoo.bodies import Attention
from seqlens_zoo.weights import load_body

TYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


def eager_maps(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Weights [layers, heads, queries, keys] of one sequence, alone and unpadded."""
    model = load_body("transformer")
    maps: list[NDArray[np.float32]] = []

    def keep(attention: Attention, given: tuple[torch.Tensor, torch.Tensor], _: object) -> None:
        query, key = (attention.split_heads(part(given[0])) for part in parts(attention))
        scores = query @ key.transpose(-2, -1) / attention.head_width**0.5
        maps.append(scores.softmax(-1)[0].numpy())

    def parts(attention: Attention) -> tuple[torch.nn.Module, torch.nn.Module]:
        return attention.query, attention.key

    hooks = [layer.attention.register_forward_hook(keep) for layer in model.body.layers]
    try:
        model(torch.tensor([list(tokens)]), torch.tensor([len(tokens)]))
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack(maps)


def ragged(sequences: Sequence[Sequence[int]]) -> pb.Sequences:
    """Sequences of token ids as a message."""
    return pb.Sequences(inputs=[pack("", "INT64", [np.array(one, np.int64) for one in sequences])])


def weights_of(one: pb.AttentionMap) -> NDArray[np.float32]:
    """Weights [heads, queries, keys] of a map's message."""
    flat = np.frombuffer(one.weights, TYPES[one.datatype])
    return flat.reshape(max(1, len(one.heads)), one.queries, one.keys)


def joined(
    answers: Iterable[pb.ExtractAttentionResponse],
) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Whole maps [heads, queries, keys] by site and sequence, made of those in the messages."""
    maps: dict[tuple[str, int], dict[tuple[int, int], NDArray[np.float32]]] = {}
    for answer in answers:
        for one in answer.layer.maps:
            rows = maps.setdefault((answer.layer.site.name, one.sequence), {})
            for head, weights in zip(one.heads, weights_of(one), strict=True):
                for number, row in enumerate(weights):
                    assert (head, one.query_start + number) not in rows
                    rows[head, one.query_start + number] = row
    return {key: _stacked(rows) for key, rows in maps.items()}


def _stacked(rows: dict[tuple[int, int], NDArray[np.float32]]) -> NDArray[np.float32]:
    heads = sorted({head for head, _ in rows})
    queries = sorted({query for _, query in rows})
    return np.stack([np.stack([rows[head, query] for query in queries]) for head in heads])
