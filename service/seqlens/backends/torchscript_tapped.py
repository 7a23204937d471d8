"""A TorchScript module opened up. It shares the engine's module and leaves it as it is."""

import threading
from collections.abc import Mapping

import torch

from seqlens.backends.tapped import Look, RecurrentTrace, Seen, Tap, Untapped
from seqlens.backends.torchscript_gradient import HIDDEN, Differentiable
from seqlens.backends.torchscript_probe import Findings, FoundWeights, probe, sequence_argument
from seqlens.backends.torchscript_rows import RowAxes
from seqlens.backends.torchscript_runner import Runner, as_array
from seqlens.backends.torchscript_traces import FLOAT_LAYERS, read_traces
from seqlens.backends.torchscript_tracking import Stage
from seqlens.backends.torchscript_watch import Wanted, Watch
from seqlens.errors import BackendFailed, NotInModel
from seqlens.graphs.anatomy import AttentionSite, ModelAnatomy
from seqlens.sequences import Array, Tensors

_RECOMPUTED = "recomputed from what the fused kernel reads"
_LOOPED = "steps of the loop are the first axis"


class TorchScriptTapped:
    """A module that can be looked into; see ``seqlens.backends.tapped.TappedModel``.

    Sites go by their place among all softmaxes of a run. A run that computes others than those
    that were found when the model was opened is refused, so no map bears another one's name.
    """

    def __init__(self, runner: Runner, anatomy: ModelAnatomy) -> None:
        self._runner: Runner | None = runner
        self._anatomy = anatomy
        self._findings = probe(runner, anatomy)
        sites = _sites(self._findings, anatomy)
        found = zip((site.name for site in sites), self._findings.weights, strict=True)
        self._found: Mapping[str, FoundWeights] = dict(found)
        looped = self._findings.looped
        self._taps = tuple(_tap(site, self._found[site.name], looped) for site in sites)
        self._untapped = () if sites else _untapped(anatomy)
        self._copy: Differentiable | None = None
        self._copying = threading.Lock()

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the module."""
        return self._anatomy

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What can be tapped, in order of execution."""
        return self._taps

    @property
    def untapped(self) -> tuple[Untapped, ...]:
        """What was found and cannot be tapped."""
        return self._untapped

    def run(self, inputs: Tensors, look: Look) -> Seen:
        """Run the module once and look inside; see ``TappedModel``.

        One that rearranges its rows is run once for each, lest they are taken for one another.
        """
        if self._findings.rearranged and _looks_at_rows(look):
            rows = self._rows.looks(inputs, look)
            return self._rows.joined([self._run(*one) for one in rows])
        return self._run(inputs, look)

    def _run(self, inputs: Tensors, look: Look) -> Seen:
        watch = Watch(self._wanted(look))
        outputs = self._open().run(inputs, watch)
        if look.sites or look.replaced:
            self._check(watch)
        return Seen(
            outputs=outputs,
            weights={site: self._weights(watch, site) for site in look.sites},
            embedding=_computed(watch.embedding, "embedding") if look.embedding else None,
            hidden=self._hidden(watch) if look.hidden else None,
            recurrences=self._traces(watch) if look.recurrences else (),
        )

    def product_error(self, inputs: Tensors, site: str) -> float | None:
        """Largest difference of weights times values to the kernel's output; see there."""
        found = self._stage(site)
        if not self._found[site].fused:
            return None
        watch = Watch(Wanted(checked=found, period=self._period))
        self._open().run(inputs, watch)
        self._check(watch)
        return watch.product_error

    def gradient(self, inputs: Tensors, output: str, weights: Array) -> Array | None:
        """Derivative of ``sum(weights * output)`` by the embedding; see ``TappedModel``."""
        features = self._features()
        if self._findings.embedding is None and features is None:
            return None
        if self._open().keeps_state:
            return None  # each run would have to work on a copy of the copy
        if self._findings.rearranged:
            rows = zip(
                self._rows.looks(inputs, Look()), self._rows.targets(output, weights), strict=True
            )
            found = [self._gradient(one, output, part, features) for (one, _), part in rows]
            return self._rows.gradient(found)
        return self._gradient(inputs, output, weights, features)

    def _gradient(
        self, inputs: Tensors, output: str, weights: Array, features: str | None
    ) -> Array | None:
        seen = self._run(inputs, Look(embedding=True, hidden=output == HIDDEN))
        return self._differentiable(inputs, features).gradient(inputs, output, weights, seen)

    def close(self) -> None:
        """Let go of the module."""
        self._runner = self._copy = None

    def _differentiable(self, inputs: Tensors, features: str | None) -> Differentiable:
        with self._copying:
            if self._copy is None:
                copied = Differentiable(self._open(), self._findings.embedding, features)
                copied.mark(inputs)
                self._copy = copied
            return self._copy

    def _open(self) -> Runner:
        if self._runner is None:
            raise BackendFailed("the opened TorchScript model is closed")
        return self._runner

    def _wanted(self, look: Look) -> Wanted:
        findings, features = self._findings, self._features()
        moved = look.embedding or look.delta is not None
        if moved and findings.embedding is None and features is None:
            raise NotInModel("this model has no embedding: no table is indexed by its ids")
        if look.hidden and findings.hidden is None:
            raise NotInModel("this model has no hidden tensor with one vector a position")
        if look.recurrences and not findings.recurrent:
            raise NotInModel("this model has no RNN, LSTM or GRU layer that can be followed")
        return Wanted(
            weights=frozenset(self._stage(site) for site in look.sites),
            period=self._period,
            replaced={self._stage(site, True): array for site, array in look.replaced.items()},
            embedding=findings.embedding if moved else None,
            delta=look.delta,
            features=features if moved else None,
            hidden=findings.hidden.place if look.hidden and findings.hidden else None,
            recurrences=FLOAT_LAYERS if look.recurrences else frozenset(),
        )

    def _stage(self, site: str, to_replace: bool = False) -> Stage:
        found = self._found.get(site)
        if found is None:
            raise NotInModel(f"this model has no attention site {site!r} that can be tapped")
        if to_replace and (found.fused or self._findings.looped):
            where = "a fused kernel" if found.fused else "a loop"
            raise NotInModel(f"weights of {site!r} cannot be replaced: they are made in {where}")
        return found.stage

    @property
    def _rows(self) -> RowAxes:
        weights = {
            site: None if one.row_axis is None else one.row_axis + self._findings.looped
            for site, one in self._found.items()
        }
        return RowAxes(self._anatomy, self._findings.embedding_rows, weights)

    def _features(self) -> str | None:
        """The argument whose features are their own embedding."""
        sequences = self._anatomy.sequence_inputs
        is_float = bool(sequences) and sequences[0].datatype.startswith(("FP", "BF"))
        return sequence_argument(self._open(), self._anatomy) if is_float else None

    @property
    def _period(self) -> int | None:
        return len(self._findings.pattern) if self._findings.looped else None

    def _check(self, watch: Watch) -> None:
        """Refuse what the opened model has not shown before, lest a map gets a wrong name."""
        seen = [one.used for one in watch.tracking.candidates]
        known = [*self._findings.pattern]
        times = len(seen) // len(known) if self._findings.looped else 1
        if seen != known * times:
            raise BackendFailed(
                "the model computed other attention weights on these inputs than on those with "
                "which it was opened, so that they cannot be told apart"
            )

    def _weights(self, watch: Watch, site: str) -> Array:
        """Weights of a site; those of a loop have its steps as a first axis."""
        found = watch.weights[self._found[site].stage]
        return as_array(torch.stack(found) if self._findings.looped else found[0])

    def _traces(self, watch: Watch) -> tuple[RecurrentTrace, ...]:
        with torch.inference_mode():
            return read_traces(watch.layers, watch.orders, self._anatomy.recurrent_layers)

    def _hidden(self, watch: Watch) -> Array:
        place = self._findings.hidden
        assert place is not None  # else the look was refused
        return place.arranged(_computed(watch.hidden, "hidden vectors"))


def _looks_at_rows(look: Look) -> bool:
    seen = look.sites or look.embedding or look.hidden or look.recurrences
    return bool(seen or look.replaced or look.delta is not None)


def _computed(tensor: torch.Tensor | None, what: str) -> Array:
    if tensor is None:
        raise BackendFailed(f"the model did not compute its {what} on these inputs")
    return as_array(tensor)


def _sites(findings: Findings, anatomy: ModelAnatomy) -> tuple[AttentionSite, ...]:
    """Those that the graph told of if they are as many, else new ones with plain names."""
    if len(findings.weights) == len(anatomy.attention_sites):
        return anatomy.attention_sites
    return tuple(
        AttentionSite(f"attention_{layer}", layer, "unknown", one.operator)
        for layer, one in enumerate(findings.weights)
    )


def _tap(site: AttentionSite, found: FoundWeights, looped: bool) -> Tap:
    notes = [_RECOMPUTED] * found.fused + [_LOOPED] * looped
    return Tap(site, not found.fused, not (found.fused or looped), "; ".join(notes))


def _untapped(anatomy: ModelAnatomy) -> tuple[Untapped, ...]:
    """The sites that the graph tells of, when runs have shown none or no order in them."""
    reason = "two runs did not show the same softmaxes or attention kernels in the same order"
    return tuple(Untapped(site, reason) for site in anatomy.attention_sites)
