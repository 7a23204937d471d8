"""What goes into and comes out of the recurrent operators of a graph."""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import ModelProto

from seqlens.graphs.anatomy import Cell
from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_recurrence import is_recurrent

_CELLS: dict[str, Cell] = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
_ACTIVATIONS: dict[Cell, int] = {"rnn": 1, "gru": 2, "lstm": 3}  # of one direction
_SCALED = ("activation_alpha", "activation_beta")


@dataclass(frozen=True, slots=True)
class RecurrentPlace:
    """One recurrent operator of the main graph. Values go by name; "": left out."""

    name: str
    layer: int  # counted from 0 from the input
    cell: Cell
    directions: tuple[bool, ...]  # of each: whether it runs in reverse
    inputs: str  # X [time, batch, input]
    hidden: str  # Y [time, directions, batch, units]
    input_weights: str  # W [directions, gates * units, input]
    recurrent_weights: str  # R [directions, gates * units, units]
    biases: str  # B [directions, 2 * gates * units]
    lengths: str  # int32 [batch]
    initial_hidden: str  # [directions, batch, units]
    initial_cell: str  # [directions, batch, units], LSTM only
    peephole_weights: str  # P [directions, 3 * units], LSTM only
    linear_before_reset: bool
    activations: tuple[tuple[str, ...], ...]  # of each direction; empty: the defaults

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all values that are there."""
        weights = (self.input_weights, self.recurrent_weights, self.biases, self.peephole_weights)
        states = (self.initial_hidden, self.initial_cell)
        return tuple(filter(None, (self.inputs, self.hidden, self.lengths, *states, *weights)))


def name_steps(model: ModelProto) -> None:
    """Give the hidden states of all steps a name, in place, where the graph leaves them out.

    They are computed in any case; without a name nobody can have them.
    """
    for index, node in enumerate(model.graph.node):
        if is_recurrent(node.op_type) and node.output and not node.output[0]:
            node.output[0] = f"seqlens_steps_{index}"


def find_recurrences(
    flow: Flow, main: frozenset[str]
) -> tuple[tuple[RecurrentPlace, ...], tuple[str, ...]]:
    """All recurrent operators whose steps can be followed, and why others cannot be.

    ``main`` are the values that the main graph makes.
    """
    places: list[RecurrentPlace] = []
    reasons: list[str] = []
    depths: dict[str, int] = {}  # of values: recurrent operators that they went through
    for step in flow.steps:
        depth = max((depths.get(name, 0) for name in _carriers(step)), default=0)
        depths.update(dict.fromkeys(step.outputs, depth + is_recurrent(step.operator)))
        if is_recurrent(step.operator):
            reason = _obstacle(flow, step, main)
            if reason:
                reasons.append(f"{step.name}: {reason}")
            else:
                places.append(_place(step, depth))
    return tuple(places), tuple(reasons)


def _carriers(step: Step) -> tuple[str, ...]:
    """Inputs through which a layer stands on another; a state from elsewhere is no such input."""
    return step.inputs[:1] if is_recurrent(step.operator) else step.inputs


def _obstacle(flow: Flow, step: Step, main: frozenset[str]) -> str:
    """Why the steps of an operator cannot be followed, "" if they can."""
    attributes = step.attributes
    if step.operator not in _CELLS:
        return f"{step.full_name} keeps its weights in int8"
    if step.outputs[0] not in main:
        return "it lies in the body of another operator"
    if attributes.get("clip"):
        return "it clips what its gates are computed from"
    if attributes.get("input_forget"):
        return "its input gate is tied to its forget gate"
    if any(attributes.get(name) for name in _SCALED):
        return "its activations have parameters of their own"
    weights = (step.input(1), step.input(2), step.input(3), step.input(7))
    if any(name not in flow.fixed for name in filter(None, weights)):
        return "its weights are computed from the input"
    return ""


def _place(step: Step, layer: int) -> RecurrentPlace:
    cell = _CELLS[step.operator]
    direction = step.attributes.get("direction", b"forward").decode()
    both = direction == "bidirectional"
    directions = (False, True) if both else (direction == "reverse",)
    return RecurrentPlace(
        name=step.name,
        layer=layer,
        cell=cell,
        directions=directions,
        inputs=step.input(0),
        hidden=step.outputs[0],
        input_weights=step.input(1),
        recurrent_weights=step.input(2),
        biases=step.input(3),
        lengths=step.input(4),
        initial_hidden=step.input(5),
        initial_cell=step.input(6),
        peephole_weights=step.input(7),
        linear_before_reset=bool(step.attributes.get("linear_before_reset", 0)),
        activations=tuple(_activations(step, cell, len(directions))),
    )


def _activations(step: Step, cell: Cell, directions: int) -> Iterator[tuple[str, ...]]:
    names = [name.decode() for name in step.attributes.get("activations", ())]
    size = _ACTIVATIONS[cell]
    yield from (tuple(names[n * size : (n + 1) * size]) for n in range(directions))
