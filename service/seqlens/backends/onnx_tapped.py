"""An ONNX model opened up: a session of its own for each choice of what to look at.

A branch that is not fetched is computed all the same, so every choice has its own graph. The
sessions share their weights, stand apart from the serving session and are built on first use.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnx import ModelProto
from onnxruntime import InferenceSession, RunOptions

from seqlens.backends.base import Device
from seqlens.backends.onnx_session import SharedWeights, open_session, run_session, share_weights
from seqlens.backends.onnx_traces import read_traces
from seqlens.backends.tapped import Look, Seen
from seqlens.errors import BackendFailed, NotInModel
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.fused_product import open_product
from seqlens.graphs.hidden_vectors import HiddenPlace, Shapes, find_hidden
from seqlens.graphs.insertion import Choice, Insides, OpenedGraph
from seqlens.graphs.taps import read_taps
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array, Tensors

_MOST_SESSIONS = 4  # each holds the weights once more, packed for its kernels


@dataclass(frozen=True, slots=True)
class _Opened:
    """A session and the names that what was chosen goes by in it."""

    session: InferenceSession
    graph: OpenedGraph
    shared: SharedWeights  # must live as long as a session that reads them


class OnnxTapped:
    """One ONNX model opened up; see ``seqlens.backends.tapped.TappedModel``."""

    def __init__(
        self, model: ModelProto, anatomy: ModelAnatomy, path: Path, device: Device
    ) -> None:
        """Take over a model as it is served, and use it up."""
        model, self._shared = share_weights(model)
        reading = read_taps(model)
        self.anatomy = anatomy
        self.taps, self.untapped = reading.taps, reading.untapped
        self._path, self._device = path, device
        self._insides = Insides(model, anatomy)
        self._sessions: OrderedDict[Choice, _Opened] = OrderedDict()
        self._lock = threading.RLock()  # finding the hidden vectors builds a session as well
        self._closed = False

    def run(self, inputs: Tensors, look: Look) -> Seen:
        """Run the model once and look inside; see ``TappedModel``."""
        features = self._insides.features
        hidden = self._required_hidden() if look.hidden else None
        inputs = dict(inputs)
        vectors = inputs.get(features) if features else None
        if features and look.delta is not None:
            inputs[features] = _sum(inputs[features], look.delta)
        opened = self._opened(self._choice(look, hidden))
        graph = opened.graph
        inputs.update({graph.replaced[site]: each for site, each in look.replaced.items()})
        if graph.delta and look.delta is not None:
            inputs[graph.delta] = look.delta
        found = _run(opened.session, inputs, shrink=bool(look.sites))
        return Seen(
            outputs={name: found[name] for name in self.anatomy.output_names},
            weights={site: found[graph.weights[site]] for site in look.sites},
            embedding=(vectors if features else found[graph.embedding]) if look.embedding else None,
            hidden=None if hidden is None else hidden.arranged(found[hidden.value]),
            recurrences=read_traces(self._insides.traced(), found) if look.recurrences else (),
        )

    def product_error(self, inputs: Tensors, site: str) -> float | None:
        """Weights times values against the kernel's output; see ``TappedModel``."""
        with self._lock:
            self._check_open()
            product = open_product(self._insides.model, site)
            if product is None:
                return None
            shared = self._shared  # kept while the session runs, whoever closes this meanwhile
            session = open_session(product.model, self._path, self._device, shared)
        return product.error(_run(session, inputs))

    def gradient(self, inputs: Tensors, output: str, weights: Array) -> Array | None:
        """None: ONNX Runtime has no autograd."""
        del inputs, output, weights
        return None

    def close(self) -> None:
        """Free the sessions and the weights."""
        with self._lock:
            self._closed = True
            self._sessions.clear()
            self._shared = SharedWeights()

    def _choice(self, look: Look, hidden: HiddenPlace | None) -> Choice:
        own = not self._insides.features  # features are changed before the graph sees them
        return Choice(
            sites=tuple(sorted(set(look.sites))),
            replaced=tuple(sorted(look.replaced)),
            embedding=look.embedding and own,
            delta=look.delta is not None and own,
            recurrences=look.recurrences,
            values=() if hidden is None else (hidden.value,),
        )

    def _opened(self, choice: Choice) -> _Opened:
        """The session for a choice, built if there is none. Runs do not wait for each other."""
        with self._lock:
            self._check_open()
            opened = self._sessions.get(choice)
            if opened is None:
                opened = self._open(choice)
                self._sessions[choice] = opened
            self._sessions.move_to_end(choice)
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return opened

    def _open(self, choice: Choice) -> _Opened:
        graph = self._insides.open(choice)
        session = open_session(graph.model, self._path, self._device, self._shared)
        graph.model.Clear()  # the session has what it needs of it
        return _Opened(session, graph, self._shared)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendFailed("the model is closed")

    def _required_hidden(self) -> HiddenPlace:
        with self._lock:
            place = self._hidden
        if place is None:
            raise NotInModel("the outputs are not computed from one vector a position")
        return place

    @cached_property
    def _hidden(self) -> HiddenPlace | None:
        insides = self._insides
        return find_hidden(
            insides.flow, self.anatomy, insides.main, insides.sources, self._float_shapes
        )

    def _float_shapes(self, values: Sequence[str], rows: int, length: int) -> Shapes:
        opened = self._open(Choice(values=tuple(values)))
        found = _run(opened.session, trial_inputs(self.anatomy, rows, length))
        return {name: found[name].shape for name in values if found[name].dtype.kind == "f"}


def _run(session: InferenceSession, inputs: Tensors, *, shrink: bool = False) -> dict[str, Array]:
    """All outputs. ``shrink`` gives memory back: maps take much of it, and are seldom drawn.

    Influence runs the same session over and over, and would only ask for the memory again.
    """
    options = RunOptions()
    if shrink:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return run_session(session, [output.name for output in session.get_outputs()], inputs, options)


def _sum(features: Array, delta: Array) -> Array:
    if features.shape != delta.shape:
        raise BackendFailed(f"delta has shape {delta.shape}, the features {features.shape}")
    return (features + delta).astype(features.dtype)
