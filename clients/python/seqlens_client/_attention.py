"""Attention weights as the caller sees them: maps of one sequence, site by site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqlens_client._descriptions import AttentionSite
from seqlens_wire.datatypes import Array

if TYPE_CHECKING:
    from seqlens_client._results import Result


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMeasures:
    """What the heads of one map do; arrays follow the order of the map's heads.

    The server measures them on the weights in full precision, before ``top_k``, reduction or
    rounding.
    """

    entropy: NDArray[np.float64]  # [heads]: mean over queries, in parts of ln(keys)
    mean_distance: NDArray[np.float64]  # [heads]: mean over queries of sum(weight * |query - key|)
    share: NDArray[np.float64] | None  # [heads]: mean weight on share_positions, if given
    largest_positions: NDArray[np.int64]  # [heads, queries]: the key of the largest weight
    similarity: NDArray[np.float64]  # [heads, heads]: 1 - Jensen-Shannon divergence / ln 2
    patterns: float  # how many different patterns the heads show, from 1 to their number


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SiteMap:
    """Attention weights of one sequence at one site of the model, without any padding.

    ``weights`` is float32 [heads, queries, keys], whatever datatype they travelled in. With
    ``top_k`` the last axis has the largest weights of each query in falling order, and
    ``key_positions``, int32 of the same shape, says on which keys they lie. Queries begin at
    position ``query_start``, keys at ``key_start``.
    """

    site: AttentionSite  # named "rollout" where that was asked for
    sequence: int  # place among those asked about
    heads: tuple[int, ...]  # numbers of those that are here; empty: they were reduced to one
    query_start: int
    key_start: int
    weights: NDArray[np.float32]
    key_positions: NDArray[np.int32] | None
    measures: AttentionMeasures | None  # if asked for
    tokens: tuple[str, ...]  # texts of the sequence's positions; empty: no tokenizer
    length: int  # of the sequence

    def __repr__(self) -> str:
        top = "" if self.key_positions is None else ", the largest of each query"
        return (
            f"SiteMap({self.site.name!r}, layer {self.site.layer}, sequence {self.sequence}, "
            f"weights {list(self.weights.shape)}{top})"
        )

    def head(self, head: int | None = None) -> NDArray[np.float32]:
        """Weights [queries, keys] of the head with this number; None: the mean of all here.

        Maps of ``top_k`` are spread out first. Raises ``ValueError`` for a head that is not here.
        """
        dense = self.to_dense().weights
        if head is None:
            return np.asarray(dense.mean(axis=0))
        if head not in self.heads:
            here = ", ".join(map(str, self.heads)) or "none: they were reduced to one"
            raise ValueError(f"head: got {head}, expected one of {here}")
        return np.asarray(dense[self.heads.index(head)])

    def to_dense(self) -> SiteMap:
        """The same with a weight for every key: 0 where ``top_k`` left one out."""
        if self.key_positions is None:
            return self
        dense = np.zeros((*self.weights.shape[:2], self._key_count()), np.float32)
        np.put_along_axis(dense, self.key_positions - self.key_start, self.weights, axis=2)
        return replace(self, weights=dense, key_positions=None)

    def _key_count(self) -> int:
        """Keys that a map of ``top_k`` was taken from: at least the sequence's, where it is one."""
        assert self.key_positions is not None
        last = int(self.key_positions.max(initial=self.key_start - 1))
        if self.site.kind != "cross":  # whose keys are of another sequence
            last = max(last, self.length - 1)
        return last + 1 - self.key_start

    def look(self, query: str | int, head: int | None = None) -> list[tuple[str, float]]:
        """What a position looks at: (token, weight), largest first.

        ``query`` is a position of the sequence (negative: from its end) or the text of a token:
        the last position that has it. Without a tokenizer positions stand for tokens. ``head``
        None is the mean of all heads. Raises ``ValueError`` for what is not here.
        """
        row = self.head(head)[self.query_row(query)]
        order = np.argsort(-row, kind="stable")
        return [(self.key_text(self.key_start + int(key)), float(row[key])) for key in order]

    def query_row(self, query: str | int) -> int:
        """Row of the weights in which a position, or the last one with a token's text, looks."""
        position = self._position_of(query) if isinstance(query, str) else query
        row = position + (self.length if position < 0 else 0) - self.query_start
        if not 0 <= row < self.weights.shape[1]:
            last = self.query_start + self.weights.shape[1] - 1
            expected = f"one of positions {self.query_start} to {last}"
            raise ValueError(f"query: got {query!r}, expected {expected}")
        return row

    def _position_of(self, token: str) -> int:
        if not self.tokens:
            raise ValueError(f"query: got {token!r}, expected a position: tokens are not known")
        if token not in self.tokens:
            raise ValueError(f"query: got {token!r}, expected one of: {' '.join(self.tokens)}")
        return len(self.tokens) - 1 - self.tokens[::-1].index(token)

    def query_text(self, position: int) -> str:
        """Text of a query's position, or its number."""
        return _text(self.tokens, position)

    def key_text(self, position: int) -> str:
        """Text of a key's position, or its number: keys of another sequence have no texts."""
        return _text(() if self.site.kind == "cross" else self.tokens, position)

    def plot(self, head: int | None = None, ax: Any = None) -> Any:
        """Draw one head (None: the mean of all) into matplotlib axes, and return them.

        Without ``ax`` a figure is made. Raises ``ImportError`` where matplotlib is needed for
        that and is not installed.
        """
        from seqlens_client._plotting import plot_map

        return plot_map(self, head, ax)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AttentionMap:
    """Attention weights of one sequence at the sites asked for, in order of execution.

    Iterating gives the ``SiteMap`` of each site; ``weights`` is all of them in one array.
    """

    maps: tuple[SiteMap, ...]
    tokens: tuple[str, ...]  # texts of the sequence's positions; empty: no tokenizer
    length: int  # positions (tokens or time steps)
    result: Result | None  # what ``infer`` gives, if outputs were asked for
    model_version: str  # the one that answered

    def __repr__(self) -> str:
        names = ", ".join(f"{each.site.name!r}: {list(each.weights.shape)}" for each in self.maps)
        return f"AttentionMap({{{names}}}, length={self.length})"

    def __iter__(self) -> Iterator[SiteMap]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The sites, each with the proof of its weights."""
        return tuple(each.site for each in self.maps)

    @property
    def measures(self) -> tuple[AttentionMeasures | None, ...]:
        """What the heads do, site by site; None: not asked for."""
        return tuple(each.measures for each in self.maps)

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The model's plain outputs by name, if they were asked for."""
        return {} if self.result is None else self.result.outputs

    @property
    def weights(self) -> NDArray[np.float32]:
        """Weights [layers, heads, queries, keys], float32.

        Raises ``ValueError`` where sites differ in shape: use ``layer`` or ``site`` then.
        """
        return _stacked([each.weights for each in self.maps])

    @property
    def key_positions(self) -> NDArray[np.int32] | None:
        """Of ``top_k``: the key of each weight, in the shape of ``weights``; else None."""
        positions = [each.key_positions for each in self.maps if each.key_positions is not None]
        return _stacked(positions) if positions else None

    def layer(self, layer: int) -> SiteMap:
        """The map of a layer, by its number; negative: from the end of those that are here.

        Raises ``ValueError`` for a layer that is not here.
        """
        numbers = [each.site.layer for each in self.maps]
        if layer in numbers:
            return self.maps[numbers.index(layer)]
        if -len(numbers) <= layer < 0:
            return self.maps[layer]
        raise ValueError(f"layer: got {layer}, expected one of {', '.join(map(str, numbers))}")

    def site(self, name: str) -> SiteMap:
        """The map of a site, by its name. Raises ``ValueError`` for one that is not here."""
        for each in self.maps:
            if each.site.name == name:
                return each
        names = ", ".join(each.site.name for each in self.maps)
        raise ValueError(f"site: got {name!r}, expected one of {names}")

    def look(
        self, query: str | int, layer: int = -1, head: int | None = None
    ) -> list[tuple[str, float]]:
        """What a position looks at in one layer: (token, weight), largest first.

        ``query`` is a position (negative: from the end) or the text of a token: the last position
        that has it. ``head`` None is the mean of all heads. Raises ``ValueError`` for what is not
        here.
        """
        return self.layer(layer).look(query, head)

    def to_dense(self) -> AttentionMap:
        """The same with a weight for every key: 0 where ``top_k`` left one out."""
        return replace(self, maps=tuple(each.to_dense() for each in self.maps))

    def to_bertviz(self) -> list[NDArray[np.float32]]:
        """A list of arrays [1, heads, queries, keys], one for each layer, as BertViz has them.

        ``head_view([torch.tensor(each) for each in found.to_bertviz()], list(found.tokens))``.
        It wants square maps: select neither queries nor keys. Those of ``top_k`` are spread out.
        """
        return [each.to_dense().weights[np.newaxis] for each in self.maps]

    def plot(self, layer: int = -1, head: int | None = None, ax: Any = None) -> Any:
        """Draw one head (None: the mean of all) into matplotlib axes, and return them.

        Without ``ax`` a figure is made. Raises ``ImportError`` where matplotlib is needed for
        that and is not installed.
        """
        return self.layer(layer).plot(head, ax)


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        told = " and ".join(str(list(shape)) for shape in sorted(shapes)) or "no maps at all"
        raise ValueError(f"not one array but maps of {told}: use layer(n) or site(name)")
    return np.stack(arrays)


def _text(tokens: tuple[str, ...], position: int) -> str:
    return tokens[position] if position < len(tokens) else str(position)
