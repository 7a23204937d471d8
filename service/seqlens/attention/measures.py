"""What attention heads do, in numbers, and how far signals travel in each architecture."""

import math
from collections.abc import Sequence

import numpy as np

from seqlens.attention.selection import MapMeasures
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import Array

NO_PATH = -1  # as a number of steps: nothing gets from one position to the other


def measure_map(
    weights: Array, query_start: int = 0, share_positions: Sequence[int] | None = None
) -> MapMeasures:
    """Measure the heads of one map.

    ``weights`` [heads, queries, keys] with all keys, ``query_start`` the position of the first
    query; ``share_positions`` are keys. A map without positions of its queries, as of pooling,
    has one query at position 0. Entropy is 0 where there is one key.
    """
    exact = np.asarray(weights, np.float64)
    similarity = similarity_of_heads(exact)
    return MapMeasures(
        entropy=_mean_entropy(exact),
        mean_distance=_mean_distance(exact, query_start),
        share=None if share_positions is None else _share(exact, share_positions),
        largest_positions=exact.argmax(axis=2).astype(np.int64),
        similarity=similarity,
        patterns=effective_patterns(similarity),
    )


def similarity_of_heads(weights: Array) -> Array:
    """1 - Jensen-Shannon divergence / ln 2 of each pair of heads, mean over queries.

    ``weights`` float64 [heads, queries, keys]; float64 [heads, heads], 1 on the diagonal: 1 for
    heads that look at the same, 0 for heads that share no key.
    """
    heads = len(weights)
    entropies = [_entropies(one) for one in weights]
    similarity = np.eye(heads)
    for first in range(heads):
        for second in range(first):
            middle = _entropies((weights[first] + weights[second]) / 2)
            divergence = middle - (entropies[first] + entropies[second]) / 2
            alike = 1.0 - float(divergence.mean()) / math.log(2)
            similarity[first, second] = similarity[second, first] = min(max(alike, 0.0), 1.0)
    return similarity


def effective_patterns(similarity: Array) -> float:
    """How many different patterns the heads show: the Vendi score of their similarity.

    The exponential of the entropy of the eigenvalues of ``similarity / heads`` (Friedman and
    Dieng 2023): 1 if all heads do the same, their number if none shares a key with another. The
    similarity is a positive definite kernel (Martins et al. 2009), so eigenvalues below 0 are
    rounding.
    """
    eigenvalues = np.linalg.eigvalsh(similarity / len(similarity))
    kept = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(kept * np.log(kept)).sum()))


def rollout(layers: Sequence[Array]) -> Array:
    """Attention through all layers (Abnar and Zuidema 2020), float64 [positions, positions].

    ``layers`` are weights [heads, positions, positions] from the input on. In each the mean of
    the heads is averaged with the identity, for the residual connection, and rows are made to
    sum to 1; the layers are then multiplied.
    """
    through = np.eye(layers[0].shape[-1])
    for weights in layers:
        through = roll_on(through, weights)
    return through


def roll_on(through: Array, weights: Array) -> Array:
    """The rollout of one layer more."""
    mixed = weights.mean(axis=0, dtype=np.float64)
    mixed = (mixed + np.eye(len(mixed))) / 2
    rolled: Array = (mixed / mixed.sum(axis=1, keepdims=True)) @ through
    return rolled


def sequential_steps(anatomy: ModelAnatomy, input_position: int, output_position: int) -> int:
    """Steps that must follow each other from one position's input to another's output.

    One step is one layer at one position. Every layer has to be passed. An attention layer looks
    at any position in its one step. A recurrent layer takes one more for every position between,
    in its direction only. So a net of L recurrent layers takes L + distance, one of L attention
    layers L whatever the distance, and in a mixture the distance costs nothing, because
    attention bridges it. Masks are not looked at: an attention layer that may not see later
    positions counts like any other. ``NO_PATH`` where neither attention nor a recurrent
    layer of the right direction leads there, as from later to earlier ones in a forward net.
    """
    recurrent = sum(one.layers for one in anatomy.recurrent_layers)
    attention = len(anatomy.attention_sites)
    distance = abs(output_position - input_position)
    if recurrent + attention == 0:
        return NO_PATH
    if attention or distance == 0:
        return recurrent + attention
    wanted = "forward" if output_position > input_position else "reverse"
    directions = {one.direction for one in anatomy.recurrent_layers}
    return recurrent + distance if directions & {wanted, "bidirectional"} else NO_PATH


def _entropies(weights: Array) -> Array:
    """Entropy over the last axis, in nats."""
    logarithms = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropies: Array = -(weights * logarithms).sum(axis=-1)
    return entropies


def _mean_entropy(weights: Array) -> Array:
    keys = weights.shape[2]
    if keys < 2:
        return np.zeros(len(weights))
    mean: Array = _entropies(weights).mean(axis=1) / math.log(keys)
    return mean


def _mean_distance(weights: Array, query_start: int) -> Array:
    queries = query_start + np.arange(weights.shape[1])
    distances = np.abs(queries[:, np.newaxis] - np.arange(weights.shape[2]))
    mean: Array = (weights * distances).sum(axis=2).mean(axis=1)
    return mean


def _share(weights: Array, positions: Sequence[int]) -> Array:
    share: Array = weights[:, :, list(positions)].sum(axis=2).mean(axis=1)
    return share
