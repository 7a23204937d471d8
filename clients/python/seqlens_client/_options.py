"""The keyword arguments that the overloads of both clients share."""

from collections.abc import Sequence
from typing import TypedDict


class CallOptions(TypedDict, total=False):
    """Of ``infer``."""

    version: str
    outputs: Sequence[str] | None
    timeout: float | None
    priority: int


class StreamingOptions(CallOptions, total=False):
    """Of ``stream``."""

    window: int
