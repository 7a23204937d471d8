"""The keyword arguments that the overloads of looking inside share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from seqlens_client._insight_requests import MapDatatype, Positions, Reduction


class SelectionOptions(TypedDict, total=False):
    """Of ``attention`` and ``stream_attention``."""

    sites: Sequence[str] | None
    layers: Sequence[int] | int | None
    heads: Sequence[int] | int | None
    queries: Positions | None
    keys: Positions | None
    last_query: bool
    top_k: int
    reduce_heads: Reduction | None
    rollout: bool
    dtype: MapDatatype
    measures: bool
    share_positions: Sequence[int] | None
    version: str


class AttentionOptions(SelectionOptions, total=False):
    """Of ``attention``."""

    outputs: bool
    timeout: float | None
