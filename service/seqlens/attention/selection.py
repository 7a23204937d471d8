"""What of a model's attention is asked for, and what comes back: plain values."""

from dataclasses import dataclass
from typing import Literal

from seqlens.attention.sites import Site
from seqlens.sequences import Array

MapDatatype = Literal["FP32", "FP16", "UINT8"]
Reduction = Literal["", "mean", "max"]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions from ``start`` up to, not including, ``stop``; negative ones count from the end.

    None: from the first, or through the last.
    """

    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class AttentionSelection:
    """Which attention weights. Negative layers and positions count from the end."""

    sites: tuple[str, ...] = ()  # by name; this and layers empty: all that are proved
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()  # empty: all
    queries: Span = Span()
    keys: Span = Span()
    last_query: bool = False
    top_k: int = 0  # the largest so many weights of each query; 0: all
    reduce_heads: Reduction = ""
    rollout: bool = False  # one map through all chosen layers (Abnar and Zuidema 2020)
    datatype: MapDatatype = "FP32"  # UINT8: weights times 255


@dataclass(frozen=True, slots=True)
class MapMeasures:
    """What the heads of one map do; arrays follow the order of the map's heads.

    Measured on the weights in full precision, before ``top_k``, reduction or rounding.
    """

    entropy: Array  # float64 [heads]: mean over queries, in parts of ln(keys)
    mean_distance: Array  # float64 [heads]: mean over queries of sum(weight * |query - key|)
    share: Array | None  # float64 [heads]: mean over queries of the weight on given keys
    largest_positions: Array  # int64 [heads, queries]
    similarity: Array  # float64 [heads, heads]: 1 - Jensen-Shannon divergence / ln 2
    patterns: float  # how many different patterns the heads show, from 1 to their number


@dataclass(frozen=True, slots=True)
class SequenceMap:
    """Weights of one sequence at one site, without any padding."""

    sequence: int  # place among those asked about
    heads: tuple[int, ...]  # numbers of those that are here; empty: they were reduced to one
    query_start: int
    key_start: int
    weights: Array  # [heads, queries, keys], in the datatype asked for
    key_positions: Array | None = None  # top_k only: int32 [heads, queries, keys]
    measures: MapMeasures | None = None


@dataclass(frozen=True, slots=True)
class SiteMaps:
    """The maps of one site, for all sequences or some of them."""

    site: Site
    maps: tuple[SequenceMap, ...]
