"""Which execution strategy a model gets, decided from what was found and measured."""

from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """How the sequences of a model share batches; see docs/architecture.md."""

    BY_LENGTH = "by_length"  # near lengths, padded: only models proved safe under padding
    EQUAL_LENGTH = "equal_length"  # only sequences of one length: padding leaks
    ALONE = "alone"  # one sequence at a time: batch mates leak, or there is no batch axis
    WHOLE = "whole"  # not a sequence model: the request as it came


@dataclass(frozen=True, slots=True)
class Decision:
    """A strategy and the reason for it, for people."""

    strategy: Strategy
    reason: str
