"""Attention sites tried when a model is loaded: a map that fails is not offered unasked."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seqlens.attention.axes import SiteAxes, sum_error
from seqlens.attention.feedback import largest_difference, try_feedback
from seqlens.attention.order import misordered
from seqlens.attention.padded import try_padding
from seqlens.attention.probes import SiteProbe, inputs_of
from seqlens.attention.site_axes import find_axes
from seqlens.attention.sites import AttentionReport, Site, SiteProof
from seqlens.backends.tapped import Look, Seen, Tap, TappedModel, Untapped
from seqlens.errors import SeqLensError
from seqlens.sequences import Array, Tensors

Run = Callable[[Tensors], dict[str, Array]]

_PADDING_WEIGHT = 1e-6  # counts as none
_FLAT = 1e-3  # weights that are this near to uniform ones cannot be told from them


@dataclass(frozen=True, slots=True)
class Limits:
    """What errors may be.

    Sums of rows are taken in float64, so what is left is the rounding of the weights
    themselves: over some 30 exports of all kinds it reached 2.4e-7 in float32 and 4.9e-4, one
    step below 1, in float16. The limits leave eight and two times that. bfloat16 rounds eight
    times coarser than float16.
    """

    row_sum: float = 2e-6
    outputs: float = 1e-5  # in parts of the largest output, or of 1 if all are smaller
    weights: float = 1e-5  # of one sequence, in a padded batch against alone


_LIMITS = {
    "fp16": Limits(row_sum=1e-3, outputs=1e-2, weights=2e-3),
    "bf16": Limits(row_sum=8e-3, outputs=5e-2, weights=1.6e-2),
}


@dataclass(slots=True)
class _Trial:
    """What is found out about the sites of a model, step by step."""

    probe: SiteProbe
    run: Run
    limits: Limits
    seconds: float
    axes: dict[str, SiteAxes] = field(default_factory=dict)
    proofs: dict[str, SiteProof] = field(default_factory=dict)
    bears_padding: set[str] = field(default_factory=set)
    untried: dict[str, str] = field(default_factory=dict)  # by site: what could not be tried
    failure: str = ""  # of the model itself
    remarks: list[str] = field(default_factory=list)

    def note(self, name: str, limit: float, complaint: str, **measured: Any) -> None:
        """Keep one measured error; beyond its limit the site is not proved."""
        proof = replace(self.proofs.get(name, SiteProof(True)), **measured)
        (value,) = measured.values()
        if proof.proved and not value <= limit:
            proof = replace(proof, proved=False, reason=f"{complaint} by {value:.2g}")
        self.proofs[name] = proof

    def fail(self, name: str, reason: str) -> None:
        """Keep why a site is not proved; the first reason stands."""
        proof = self.proofs.get(name, SiteProof(True))
        if proof.proved:
            self.proofs[name] = replace(proof, proved=False, reason=reason)


def prove_sites(tapped: TappedModel, run: Run, *, seconds: float) -> AttentionReport:
    """Try every attention site of a model; never raises for a site that fails.

    ``run`` is that of the serving engine, whose outputs must be those of the tapped runs.
    ``seconds`` is a soft limit of the runs that try whether sites are used, once the model is
    open for them; a site for which there was no time counts as not proved, and says so. Axes,
    row sums, repetition and padding are always tried.
    """
    started = time.perf_counter()
    limits = _LIMITS.get(tapped.anatomy.precision, Limits())
    trial = _Trial(SiteProbe(tapped), run, limits, seconds)
    if tapped.taps:
        try:
            _try_sites(trial)
        except SeqLensError as error:
            trial.failure = str(error)
    sites = [*(_site(tap, trial) for tap in tapped.taps), *map(_untapped, tapped.untapped)]
    sites.sort(key=lambda site: site.site.layer)
    findings = (*trial.remarks, *_findings(sites, tapped.anatomy.fixed_length))
    return AttentionReport(tuple(sites), time.perf_counter() - started, findings)


def _try_sites(trial: _Trial) -> None:
    sizes, trial.axes = find_axes(trial.probe)
    inputs = inputs_of(trial.probe.anatomy, sizes.base)
    seen = _try_weights(trial, inputs)
    allowed = _try_outputs(trial, inputs)
    for name, place in misordered(trial.probe, sizes, trial.axes).items():
        trial.fail(name, f"it does not stand in the order of the sequence: {place}")
    try:
        for name, padded in try_padding(trial.probe, sizes, trial.axes).items():
            trial.proofs[name] = replace(
                trial.proofs[name], padding_weight=padded.weight, padded_error=padded.error
            )
            if padded.weight <= _PADDING_WEIGHT and padded.error <= trial.limits.weights:
                trial.bears_padding.add(name)
    except (SeqLensError, ValueError) as error:
        trial.remarks.append(f"padded batches do not run: {error}")
    _try_products(trial, inputs)
    _try_feedback(trial, inputs, seen, allowed)


def _try_weights(trial: _Trial, inputs: Tensors) -> Seen:
    """Sums of rows, and whether a second run gives the same; returns the first."""
    seen = trial.probe.look(inputs)
    first, second = seen.weights, trial.probe.look(inputs).weights
    for name in trial.probe.names:
        limit = trial.limits.row_sum
        if first[name].dtype == np.float16:
            limit = max(limit, _LIMITS["fp16"].row_sum)
        error = sum_error(first[name], trial.axes[name].axes.index("key"))
        trial.note(name, limit, "its rows miss 1", row_sum_error=error)
        repeated = largest_difference({"": first[name]}, {"": second[name]})
        trial.note(name, limit, "drawn again it differs", repeat_error=repeated)
    return seen


def _try_outputs(trial: _Trial, inputs: Tensors) -> float:
    """Whether tapping leaves the plain outputs alone; returns what they may move."""
    plain = trial.run(inputs)
    allowed = trial.limits.outputs * max(1.0, _largest(plain))
    together = largest_difference(plain, trial.probe.look(inputs).outputs)
    for name in trial.probe.names:
        error = together
        if not together <= allowed:  # one of them may be the only one to blame
            seen = trial.probe.tapped.run(inputs, Look(sites=(name,)))
            error = largest_difference(plain, seen.outputs)
        trial.note(name, allowed, "tapping it moves the outputs", output_error=error)
    return allowed


def _largest(outputs: Tensors) -> float:
    floats = (array for array in outputs.values() if array.dtype.kind == "f")
    finite = (np.abs(array[np.isfinite(array)]) for array in floats)
    return max((float(one.max(initial=0.0)) for one in finite), default=0.0)


def _try_products(trial: _Trial, inputs: Tensors) -> None:
    """Weights that were recomputed, times the values, against the kernel's own output."""
    until = time.perf_counter() + trial.seconds
    for name in [t.site.name for t in trial.probe.tapped.taps if not t.measured]:
        if name not in trial.probe.names:
            continue
        if time.perf_counter() >= until:
            trial.untried[name] = "its product with the values"
            continue
        try:
            error = trial.probe.tapped.product_error(inputs, name)
        except SeqLensError as refusal:
            trial.fail(name, f"its product with the values cannot be had: {refusal}")
            continue
        if error is not None:
            complaint = "weights times values miss the kernel's output"
            trial.note(name, trial.limits.outputs, complaint, product_error=error)


def _try_feedback(trial: _Trial, inputs: Tensors, seen: Seen, allowed: float) -> None:
    names = [tap.site.name for tap in trial.probe.tapped.taps if tap.replaceable]
    names = [name for name in names if name in trial.probe.names]
    found = try_feedback(
        trial.probe,
        inputs,
        seen.outputs,
        {name: seen.weights[name] for name in names},
        {name: trial.axes[name].axes.index("key") for name in names},
        allowed=allowed,
        seconds=trial.seconds,
    )
    for name in names:
        if name not in found:
            trial.untried.setdefault(name, "putting its weights back")
            continue
        one = found[name]
        complaint = "its own weights put back move the outputs"
        trial.note(name, allowed, complaint, feedback_error=one.error)
        trial.note(name, np.inf, "", uniform_movement=one.movement)
        if not one.movement > allowed:
            flat = "they are uniform already" if one.flatness <= _FLAT else "they are not used"
            trial.fail(name, f"uniform weights in its place move nothing: {flat}")


def _site(tap: Tap, trial: _Trial) -> Site:
    name = tap.site.name
    for reason in (trial.probe.refused.get(name), trial.failure):
        if reason:
            trial.fail(name, reason)
    if name in trial.untried:
        trial.fail(
            name,
            f"{trial.untried[name]} could not be tried in the time allowed (insight.proof_seconds)",
        )
    proof = trial.proofs.get(name, SiteProof(False, "it was not tried"))
    if name not in trial.axes:
        return Site(tap.site, (), proof, tap.measured, note=tap.note)
    axes = trial.axes[name]
    return Site(
        replace(tap.site, heads=axes.heads),
        axes.axes,
        proof,
        tap.measured,
        note=tap.note,
        queries=axes.queries,
        keys=axes.keys,
        bears_padding=name in trial.bears_padding,
    )


def _untapped(one: Untapped) -> Site:
    proof = SiteProof(False, one.reason)
    return Site(one.site, (), proof, measured=False, tappable=False, note=one.reason)


def _findings(sites: Iterable[Site], fixed_length: int | None) -> Iterator[str]:
    """What people should know of these sites."""
    if fixed_length is None:
        drawn = "maps are drawn from unpadded runs"
    else:
        drawn = f"so maps of sequences shorter than {fixed_length} positions say little"
    for site in sites:
        if not site.tappable:
            yield f"attention {site.name!r} cannot be drawn: {site.note}"
        elif not site.proof.proved:
            yield f"attention {site.name!r} is not proved: {site.proof.reason}"
        elif not site.bears_padding:
            yield f"attention {site.name!r}: {_what_padding_does(site.proof)}, {drawn}"


def _what_padding_does(proof: SiteProof) -> str:
    if proof.padding_weight is None or proof.padded_error is None:
        return "padding was not tried"
    if proof.padding_weight > _PADDING_WEIGHT:
        return f"padding gets up to {proof.padding_weight:.2g} of a query's weight"
    return f"padding moves its weights by up to {proof.padded_error:.2g}"
