"""Whether a model really uses its attention weights: they are taken out and put back in.

With its own weights put back nothing may move; with uniform ones something must. What moves
then is worth knowing in itself: how much the site counts.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seqlens.attention.probes import SiteProbe
from seqlens.backends.tapped import Look
from seqlens.errors import SeqLensError
from seqlens.graphs.axes import difference
from seqlens.sequences import Array, Tensors


@dataclass(frozen=True, slots=True)
class Feedback:
    """How far outputs moved when weights were replaced, largest absolute values."""

    error: float  # by the weights that had been drawn
    movement: float  # by uniform ones
    flatness: float  # of the weights themselves, from uniform ones


def try_feedback(
    probe: SiteProbe,
    inputs: Tensors,
    plain: Tensors,
    weights: Mapping[str, Array],
    key_axes: Mapping[str, int],
    *,
    allowed: float,
    seconds: float,
) -> dict[str, Feedback]:
    """Replace the weights of these sites, which can be replaced; those not tried in time lack.

    ``plain`` are the outputs where nothing is replaced. All other sites keep their drawn weights
    meanwhile, so that a backend prepares one model for all of it, and each site's own effect is
    seen. ``seconds`` count once it is prepared. Sites that fail are refused.
    """
    trial = _Replacing(probe, inputs, plain)
    together = trial.moved(weights) if weights else None
    until = time.perf_counter() + seconds
    found = {}
    for name, own in weights.items():
        if time.perf_counter() >= until:
            break
        uniform = np.full_like(own, 1.0 / own.shape[key_axes[name]])
        # One site that fails among all spoils the common run: then each is tried by itself.
        held = dict(weights) if together is not None and together <= allowed else {}
        error = together if held else trial.alone(name, own)
        movement = trial.moved({**held, name: uniform}) if error is not None else None
        if movement is not None and movement <= allowed:
            # What only shapes the weights of later sites shows when those are not held.
            movement = trial.alone(name, uniform)
        if error is not None and movement is not None:
            found[name] = Feedback(error, movement, float(np.abs(own - uniform).max(initial=0.0)))
    return found


@dataclass(frozen=True, slots=True)
class _Replacing:
    probe: SiteProbe
    inputs: Tensors
    plain: Tensors

    def moved(self, replaced: Mapping[str, Array]) -> float | None:
        """How far the outputs move; None where the model refuses."""
        try:
            seen = self.probe.tapped.run(self.inputs, Look(replaced=replaced))
        except SeqLensError:
            return None
        return largest_difference(self.plain, seen.outputs)

    def alone(self, name: str, weights: Array) -> float | None:
        """The same with one site; where the model refuses, that site is refused."""
        try:
            seen = self.probe.tapped.run(self.inputs, Look(replaced={name: weights}))
        except SeqLensError as error:
            self.probe.refuse(name, f"its weights cannot be replaced: {error}")
            return None
        return largest_difference(self.plain, seen.outputs)


def largest_difference(first: Tensors, second: Tensors) -> float:
    """Largest absolute difference of two answers, infinite where they cannot be compared."""
    return max(
        (float(difference(first[name], second[name]).max(initial=0.0)) for name in first),
        default=0.0,
    )
