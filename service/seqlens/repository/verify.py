"""Batched = alone, tried when a model is loaded: nothing is believed because of a mask input.

Every probe sequence is run alone, then among mates of its own length, then among mates of
other lengths with hostile values in the padding. Only the answers at real positions count.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from seqlens.backends.base import Engine
from seqlens.errors import ModelRejected, SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.repository.trials import Kind, Trial
from seqlens.scheduling.strategy import Decision, Strategy, decide

LENGTHS = (1, 2, 3, 5, 9, 17, 33)
_LONGER = (65, 129, 257, 513, 1025, 2049)
# What is promised, and what probes may differ, in parts of the largest answer. The gap is wide
# because rounding grows faster in real sequences than in random ones: a trained RNN whose probes
# differed by 3.5e-6 moved by 1.1e-4 on sentences like those that it was trained on.
_TOLERANCE, _ALLOWED = 1e-4, 1e-5
_LOW_PRECISION_TOLERANCE, _LOW_PRECISION_ALLOWED = 2e-2, 1e-2
_LOW_PRECISION = ("fp16", "bf16")
_SHARED: tuple[Kind, ...] = ("equal_length", "padded")  # each allows more than those before it
_STRICTNESS = (Strategy.BY_LENGTH, Strategy.EQUAL_LENGTH, Strategy.ALONE)


class VerificationFailed(ModelRejected):
    """A model loads, but does not run, or may not be served as it is asked to be."""


@dataclass(frozen=True, slots=True)
class LengthErrors:
    """The errors of the probe sequences of one length; None where it was not tried."""

    length: int
    repeat_error: float | None = None
    equal_length_error: float | None = None
    padded_error: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """How far answers move when a sequence shares a batch.

    Errors are the largest absolute differences from the answer alone, infinite where an answer
    is not finite or has another shape, None where it was not tried. Those of the whole model are
    of all lengths up to the longest that keeps within ``allowed_error``; ``by_length`` has the
    others too.
    """

    tolerance: float  # promised for every sequence
    allowed_error: float  # for probes
    repeat_error: float | None = None  # alone and alone again
    equal_length_error: float | None = None  # among sequences of its own length
    padded_error: float | None = None  # among sequences of other lengths
    exported_error: float | None = None  # padded, in the file as exported; None: it is served so
    by_length: tuple[LengthErrors, ...] = ()
    checked_sequences: int = 0
    refused_lengths: dict[int, str] = field(default_factory=dict)  # do not run even alone
    batch_failure: str = ""  # why batches of one length do not run
    padding_failure: str = ""  # why padded batches do not run
    seconds: float = 0.0  # time that the proof took
    from_cache: bool = False  # made at an earlier load of the same file and libraries

    @property
    def checked_lengths(self) -> tuple[int, ...]:
        """The lengths that were tried, ascending."""
        return tuple(one.length for one in self.by_length)

    def error_of(self, strategy: Strategy) -> float | None:
        """The error that sequences meet under a strategy."""
        if strategy is Strategy.EQUAL_LENGTH:
            return self.equal_length_error
        if strategy is not Strategy.BY_LENGTH:
            return self.repeat_error
        known = [e for e in (self.padded_error, self.equal_length_error) if e is not None]
        return max(known, default=None)

    def longest_shared(self, strategy: Strategy) -> int:
        """Longest length up to which a strategy of shared batches keeps to what is allowed."""
        longest = 0
        for one in self.by_length:
            errors = [one.equal_length_error]
            if strategy is Strategy.BY_LENGTH:
                errors.append(one.padded_error)
            if any(error is not None and not error <= self.allowed_error for error in errors):
                break
            longest = one.length
        return longest


def prove(
    engine: Engine,
    anatomy: ModelAnatomy,
    tolerance: float | None = None,
    *,
    longest: int | None = None,
    most_rows: int = 8,
    seconds: float = 1.0,
    load_exported: Callable[[], Engine] | None = None,
) -> Proof:
    """Try whether batches change answers.

    ``tolerance`` is absolute, for probes as for all sequences; None takes 1e-4 (2e-2 in half
    precision) of the largest answer, and of 1 if all are smaller, and allows probes a tenth (a
    half) of it. ``longest`` bounds the lengths, ``most_rows`` the batches,
    ``seconds`` softly the time. ``load_exported`` loads the file untouched: give it where the
    served graph differs. Raises ``VerificationFailed`` if no probe runs even alone.
    """
    started = time.perf_counter()
    trial = Trial(engine, anatomy, most_rows, seconds)
    _run_alone(trial, anatomy, longest)
    tolerance, allowed = _tolerances(tolerance, trial, anatomy)
    batch_failure, padding_failure, exported_error = "", "", None
    if anatomy.batched and not engine.capabilities.keeps_state and most_rows > 1:
        batch_failure = _failure(trial.equal_lengths)
        padding_failure = batch_failure or _failure(trial.padded)
        exported_error = _exported_error(trial, load_exported)
        _climb(trial, anatomy, longest, allowed, seconds / 2)
    return Proof(
        tolerance=tolerance,
        allowed_error=allowed,
        repeat_error=trial.worst("repeat"),
        equal_length_error=None if batch_failure else _error(trial, "equal_length", allowed),
        padded_error=None if padding_failure else _error(trial, "padded", allowed),
        exported_error=exported_error,
        by_length=_by_length(trial),
        checked_sequences=len(trial.alone),
        refused_lengths=trial.refused,
        batch_failure=batch_failure,
        padding_failure=padding_failure,
        seconds=time.perf_counter() - started,
    )


def decide_strategy(
    engine: Engine, anatomy: ModelAnatomy, proof: Proof, stated: Strategy | None = None
) -> Decision:
    """The strategy that a proof allows, or a stricter one that ``model.yaml`` states.

    Raises ``VerificationFailed`` for a stated one that the proof does not allow.
    """
    decision = decide(
        anatomy,
        engine.capabilities,
        allowed=proof.allowed_error,
        repeat_error=proof.repeat_error,
        equal_length_error=proof.equal_length_error,
        padded_error=proof.padded_error,
    )
    decision = _with_longest(_with_failure(decision, proof), anatomy, proof)
    if stated is None or stated is decision.strategy:
        return decision
    if stated not in _strictest_from(decision.strategy):
        raise VerificationFailed(
            f"model.yaml asks for strategy {stated.value}, but the model allows "
            f"{decision.strategy.value}: {decision.reason}"
        )
    return replace(
        decision,
        strategy=stated,
        reason=f"stated in model.yaml; the proof allows {decision.strategy.value}",
    )


def _strictest_from(allowed: Strategy) -> tuple[Strategy, ...]:
    """The strategies that batch less than the one allowed."""
    return _STRICTNESS[_STRICTNESS.index(allowed) + 1 :] if allowed in _STRICTNESS else ()


def _run_alone(trial: Trial, anatomy: ModelAnatomy, longest: int | None) -> None:
    trial.run_alone(_lengths(anatomy, longest), usual=max(LENGTHS))
    if not trial.lengths:
        length, reason = next(iter(trial.refused.items()), (0, "no length is allowed"))
        rows = anatomy.fixed_batch
        only = f", only batches of exactly {rows} run" if rows not in (None, 1) else ""
        raise VerificationFailed(
            f"the model does not run on one sequence of length {length}{only}: {reason}"
        )
    trial.repeat()


def _lengths(anatomy: ModelAnatomy, longest: int | None) -> list[int]:
    if not anatomy.has_time:
        return [1]
    bounds = (longest, anatomy.max_length, anatomy.fixed_length)
    limit = min((b for b in bounds if b is not None), default=max(_LONGER))
    lengths = {length for length in (*LENGTHS, *_LONGER) if length <= limit}
    return sorted({*lengths, limit} if limit <= max(_LONGER) else lengths)


def _climb(
    trial: Trial, anatomy: ModelAnatomy, longest: int | None, allowed: float, seconds: float
) -> None:
    """Try longer sequences wherever shorter ones may share batches."""
    kinds: list[Kind] = []
    for kind in _SHARED:
        error = trial.worst(kind)
        if error is None or not error <= allowed:
            break
        kinds.append(kind)
    if not kinds or not anatomy.has_time or anatomy.fixed_length is not None:
        return
    reached = max(trial.lengths)
    lengths = [length for length in _lengths(anatomy, longest) if length > reached]
    # Where a longer one fails to run, the proof ends before it.
    _failure(lambda: trial.climb(lengths, kinds, seconds))


def _error(trial: Trial, kind: Kind, allowed: float) -> float | None:
    """The largest difference, of longer sequences only as far as it is allowed."""
    errors = trial.errors[kind]
    known = [errors[length] for length in trial.lengths if length in errors]
    for length in trial.climbed:
        error = errors.get(length)
        if error is None or not error <= allowed:
            break
        known.append(error)
    return max(known, default=None)


def _tolerances(stated: float | None, trial: Trial, anatomy: ModelAnatomy) -> tuple[float, float]:
    """What is promised, and what probes may differ."""
    if stated is not None:
        return stated, stated
    scale = max(1.0, trial.largest_answer())
    if anatomy.precision in _LOW_PRECISION:
        return _LOW_PRECISION_TOLERANCE * scale, _LOW_PRECISION_ALLOWED * scale
    return _TOLERANCE * scale, _ALLOWED * scale


def _failure(attempt: Callable[[], None]) -> str:
    """Why a trial could not be run to its end; empty if it could."""
    try:
        attempt()
    except (SeqLensError, ValueError, LookupError) as error:
        return str(error) or type(error).__name__
    return ""


def _exported_error(served: Trial, load: Callable[[], Engine] | None) -> float | None:
    """The padded error of the file untouched, against the answers alone as served."""
    if load is None:
        return None
    engine = load()
    try:
        trial = served.on(engine)
        return None if _failure(trial.padded) else trial.worst("padded")
    finally:
        engine.close()


def _by_length(trial: Trial) -> tuple[LengthErrors, ...]:
    return tuple(
        LengthErrors(
            length,
            repeat_error=trial.errors["repeat"].get(length),
            equal_length_error=trial.errors["equal_length"].get(length),
            padded_error=trial.errors["padded"].get(length),
        )
        for length in (*trial.lengths, *trial.climbed)
    )


def _with_failure(decision: Decision, proof: Proof) -> Decision:
    """Say why batches do not run, in place of that they were not tried."""
    if proof.batch_failure and decision.strategy is Strategy.ALONE:
        reason = f"batches of several sequences do not run ({proof.batch_failure})"
        return Decision(Strategy.ALONE, f"{reason}: each sequence runs alone")
    if proof.padding_failure and decision.strategy is Strategy.EQUAL_LENGTH:
        reason = f"padded batches do not run ({proof.padding_failure})"
        return Decision(Strategy.EQUAL_LENGTH, f"{reason}: only equal lengths share a batch")
    return decision


def _with_longest(decision: Decision, anatomy: ModelAnatomy, proof: Proof) -> Decision:
    """Bound shared batches to the lengths for which they are proved."""
    if not decision.strategy.shares_batches or anatomy.fixed_length is not None:
        return decision
    longest = proof.longest_shared(decision.strategy)
    if longest == anatomy.max_length:  # longer ones are not taken at all
        return decision
    reason = f"{decision.reason}, proved up to length {longest:,}; longer ones run alone"
    return Decision(decision.strategy, reason, longest_shared=longest)
