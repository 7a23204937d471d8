"""Which execution strategy a model gets, decided from what was found and measured."""

from dataclasses import dataclass
from enum import StrEnum

from seqlens.backends.base import Capabilities
from seqlens.graphs.anatomy import ModelAnatomy


class Strategy(StrEnum):
    """How the sequences of a model share batches; see docs/architecture.md."""

    BY_LENGTH = "by_length"  # near lengths, padded: only models proved safe under padding
    EQUAL_LENGTH = "equal_length"  # only sequences of one length: padding leaks
    ALONE = "alone"  # one sequence at a time: batch mates leak, or there is no batch axis
    WHOLE = "whole"  # not a sequence model: the request as it came

    @property
    def shares_batches(self) -> bool:
        """Whether several sequences may run together at all."""
        return self in (Strategy.BY_LENGTH, Strategy.EQUAL_LENGTH)


@dataclass(frozen=True, slots=True)
class Decision:
    """A strategy and the reason for it, for people."""

    strategy: Strategy
    reason: str
    longest_shared: int | None = None  # longer sequences run alone; None: no bound


def decide(
    anatomy: ModelAnatomy,
    capabilities: Capabilities,
    *,
    allowed: float,
    repeat_error: float | None = None,
    equal_length_error: float | None = None,
    padded_error: float | None = None,
) -> Decision:
    """Choose the strategy that batches most without changing an answer.

    Each error is the largest absolute difference from a sequence's answer alone, None where it
    was not tried: ``repeat_error`` of the same sequence run again, ``equal_length_error`` in
    batches of one length, ``padded_error`` in padded batches of mixed lengths. An error that is
    not a number counts as beyond ``allowed``, the largest that may pass.
    """
    if not anatomy.has_time:
        return Decision(Strategy.WHOLE, "no input has a time axis: requests run as they come")
    barrier = _barrier_to_batches(anatomy, capabilities)
    if barrier:
        return Decision(Strategy.ALONE, f"{barrier}: each sequence runs alone")
    if repeat_error is not None and not repeat_error <= allowed:
        change = _beyond("running again changes", repeat_error, allowed)
        return Decision(Strategy.ALONE, f"{change}: each sequence runs alone")
    return _widest_sharing(allowed, equal_length_error, padded_error)


def _barrier_to_batches(anatomy: ModelAnatomy, capabilities: Capabilities) -> str:
    """Why no two sequences can share a run at all; empty when they can."""
    if capabilities.keeps_state:
        return "the model keeps state between calls"
    if not anatomy.batched:
        return "the model has no batch axis"
    for one in anatomy.sequence_inputs:
        if one.batch_axis is not None and one.shape[one.batch_axis] == 1:
            return f"the batch axis of {one.name!r} was exported with size 1"
    return ""


def _widest_sharing(
    allowed: float, equal_length_error: float | None, padded_error: float | None
) -> Decision:
    if equal_length_error is None:
        return Decision(
            Strategy.ALONE, "it was not tested whether batch mates change answers: none are shared"
        )
    if not equal_length_error <= allowed:
        change = _beyond("batch mates change", equal_length_error, allowed)
        return Decision(Strategy.ALONE, f"{change}: each sequence runs alone")
    if padded_error is None:
        return Decision(
            Strategy.EQUAL_LENGTH,
            "padding was not tested: only equal lengths share a batch",
        )
    if not padded_error <= allowed:
        change = _beyond("right padding changes", padded_error, allowed)
        return Decision(Strategy.EQUAL_LENGTH, f"{change}: only equal lengths share a batch")
    return Decision(
        Strategy.BY_LENGTH,
        f"batched and alone differ by {padded_error:.2g} at most (allowed {allowed:.2g}): "
        "near lengths share a batch",
    )


def _beyond(change: str, error: float, allowed: float) -> str:
    return f"{change} answers by {error:.2g} (allowed {allowed:.2g})"
