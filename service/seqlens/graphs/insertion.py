"""One graph for one choice of what to look at: what is not asked for is not computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, ValueInfoProto
from onnx.inliner import inline_local_functions

from seqlens.errors import NotInModel
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy
from seqlens.graphs.embedding_lookup import Lookup, find_lookup, open_embedding, vectors_of
from seqlens.graphs.onnx_flow import Flow, flatten
from seqlens.graphs.recurrent_traces import RecurrentPlace, find_recurrences, name_steps
from seqlens.graphs.tap_bodies import Surgery
from seqlens.graphs.taps import tap_model


@dataclass(frozen=True, slots=True)
class Choice:
    """What to look at, and what to change. Also the key of the session that can do it."""

    sites: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    embedding: bool = False
    delta: bool = False
    recurrences: bool = False
    values: tuple[str, ...] = ()  # of the main graph, by name


@dataclass(frozen=True, slots=True)
class OpenedGraph:
    """A model made to show what was chosen, and the names that it goes by in it."""

    model: ModelProto
    weights: dict[str, str]  # by site: output
    replaced: dict[str, str]  # by site: input
    embedding: str = ""
    delta: str = ""


class Insides:
    """A model with nothing opened yet, and what there is to open.

    Takes the model as it is served and changes it. Weights are not needed.
    """

    def __init__(self, model: ModelProto, anatomy: ModelAnatomy) -> None:
        if model.functions:
            model.CopyFrom(inline_local_functions(model))
        name_steps(model)
        self.model = model
        self.flow: Flow = flatten(model)
        self.main = frozenset(name for node in model.graph.node for name in node.output if name)
        sequences = [one for one in anatomy.sequence_inputs if one.default is None]
        self._sequence: InputAnatomy | None = next(iter(sequences), None)
        self._lookup = None if self._sequence is None else self._find_lookup(self._sequence)
        self.recurrences, self._not_followed = find_recurrences(self.flow, self.main)

    @property
    def features(self) -> str:
        """The sequence input whose features are themselves the vectors; "": there is none."""
        entry = self._sequence
        return entry.name if entry is not None and entry.datatype.startswith("FP") else ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The values in which the sequence enters the graph."""
        if self._lookup is not None:
            fused = self._lookup.fused
            return (self._lookup.step.outputs[0] if fused else vectors_of(self.flow, self._lookup),)
        return (self._sequence.name,) if self._sequence is not None else ()

    def open(self, choice: Choice) -> OpenedGraph:
        """A copy of the model that shows what is chosen.

        Raises ``NotInModel`` for what the model does not have.
        """
        tapped = tap_model(self.model, choice.sites, replaced=choice.replaced)
        embedding, delta = "", ""
        if choice.embedding or choice.delta:
            embedding, delta = self._open_embedding(tapped.model, delta=choice.delta)
        self._add_outputs(tapped.model, choice)
        return OpenedGraph(tapped.model, tapped.outputs, tapped.inputs, embedding, delta)

    def traced(self) -> tuple[RecurrentPlace, ...]:
        """The recurrent operators that can be followed. Raises ``NotInModel`` if none can."""
        if not self.recurrences:
            why = "; ".join(self._not_followed) or "the model has no recurrent operator"
            raise NotInModel(f"no recurrent layer can be followed step by step: {why}")
        return self.recurrences

    def _find_lookup(self, entry: InputAnatomy) -> Lookup | None:
        return None if entry.datatype.startswith("FP") else find_lookup(self.flow, entry.name)

    def _open_embedding(self, model: ModelProto, *, delta: bool) -> tuple[str, str]:
        lookup = self._lookup
        opened = lookup and open_embedding(Surgery(model), self.flow, lookup, delta=delta)
        if not opened:
            raise NotInModel(
                "no embedding: token ids are not looked up in a table of the main graph"
            )
        return opened.vectors, opened.delta or ""

    def _add_outputs(self, model: ModelProto, choice: Choice) -> None:
        names: Sequence[str] = choice.values
        if choice.recurrences:
            names = (*names, *(name for place in self.traced() for name in place.values))
        known = {output.name for output in model.graph.output}
        new = [name for name in dict.fromkeys(names) if name not in known]
        # Without a type, which ONNX Runtime infers for itself.
        model.graph.output.extend(ValueInfoProto(name=name) for name in new)
