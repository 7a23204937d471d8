"""The keyword arguments that the overloads of both clients share."""

from collections.abc import Sequence
from typing import TypedDict


class SequenceOptions(TypedDict, total=False):
    """Of every call that runs sequences."""

    version: str
    outputs: Sequence[str] | None
    timeout: float | None
    priority: int


class CallOptions(SequenceOptions, total=False):
    """Of ``infer``."""

    hedge_after: float | None


class StreamingOptions(SequenceOptions, total=False):
    """Of ``stream``."""

    window: int
