"""Recurrent layers of an ONNX graph: as operators, as cells carried by the caller, unrolled."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import onnx

from seqlens.graphs.anatomy import Cell, RecurrentLayer
from seqlens.graphs.onnx_flow import Flow, Step, one_branch
from seqlens.graphs.onnx_walks import PASSES, PRODUCTS
from seqlens.graphs.reading import TensorReading

_CELLS: dict[str, Cell] = {
    "RNN": "rnn",
    "LSTM": "lstm",
    "GRU": "gru",
    "DynamicQuantizeLSTM": "lstm",
}
_PICKS = PASSES | {"Gather"}
_SHORTEST_UNROLLED = 4  # uses of one weight in a chain; below it may be a model with shared layers


def is_recurrent(operator: str) -> bool:
    """Whether an operator holds a recurrence over time."""
    return operator in _CELLS


def find_layers(
    flow: Flow,
    inputs: Sequence[TensorReading],
    outputs: Sequence[TensorReading],
    sites: Sequence[Step],
) -> tuple[tuple[RecurrentLayer, ...], tuple[str, ...]]:
    """All recurrent layers in order of execution, and remarks on them for people."""
    found = [(s.branches, _layer(flow, s)) for s in flow.steps if is_recurrent(s.operator)]
    if layers := one_branch(found):
        return tuple(layers), ()
    if looped := tuple(filter(None, (_looped_cell(flow, *loop) for loop in flow.loops))):
        return looped, ()
    if carried := _carried_cell(flow, inputs, outputs):
        return (carried,), ()
    return _unrolled_loop(flow, sites)


def _layer(flow: Flow, step: Step) -> RecurrentLayer:
    direction = step.attributes.get("direction", b"forward").decode()
    return RecurrentLayer(
        name=step.name,
        cell=_CELLS[step.operator],
        direction=direction,
        input_size=_input_size(flow, step),
        hidden_size=step.attributes.get("hidden_size"),
        initial_state=_initial_state(flow, step.input(5)),
        operator=step.full_name,
    )


def _input_size(flow: Flow, step: Step) -> int | None:
    """Width of the layer's input, from W: [directions, gates * hidden, input]."""
    weights = flow.constants.get(step.input(1))
    shape = tuple(weights.dims) if weights else flow.shapes.get(step.input(1), ())
    size = shape[1 if step.operator == "DynamicQuantizeLSTM" else 2] if len(shape) == 3 else None
    return size if isinstance(size, int) else None


def _initial_state(flow: Flow, name: str) -> str:
    if not name:
        return "zeros"
    ends = list(_sources(flow, name))
    if name not in flow.data:
        return "zeros" if all(_is_zero(flow, end) for end in ends) else "constant"
    data = {end for end in ends if end in flow.data}
    return f"input:{data.pop()}" if len(data) == 1 and data <= set(flow.inputs) else "computed"


def _sources(flow: Flow, name: str) -> Iterator[str]:
    """Where a value comes from, behind operators that only pick, join and reshape."""
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        step = flow.producers.get(value)
        if step is None or step.operator not in _PICKS:
            yield value
            continue
        first_only = step.operator not in {"Concat", "Where", "Mul", "Exit"}
        for source in filter(None, step.inputs[:1] if first_only else step.inputs):
            if source not in seen:
                seen.add(source)
                waiting.append(source)


def _is_zero(flow: Flow, name: str) -> bool:
    step, constant = flow.producers.get(name), flow.constants.get(name)
    if step is not None and step.operator == "ConstantOfShape":
        constant = step.attributes.get("value")
        return constant is None or not onnx.numpy_helper.to_array(constant).any()
    if constant is None or constant.external_data:
        return False
    return not onnx.numpy_helper.to_array(constant).any()


def _looped_cell(flow: Flow, operator: str, prefix: str) -> RecurrentLayer | None:
    """A cell written out in the body of a Loop or Scan."""
    body = [s for s in flow.steps if s.outputs[0].startswith(prefix)]
    products = [s for s in body if s.operator in PRODUCTS]
    found = _gated_cell(body)
    if found is None or not products:
        return None
    cell, layers = found
    weights = [flow.constants[i].dims for s in products for i in s.inputs if i in flow.constants]
    size = min((int(n) for dims in weights for n in dims), default=None)
    entries = [s.input(0) for s in body if s.operator == "Enter"]
    start = next(
        iter(entries[2 if operator == "Loop" else 0 :]), ""
    )  # a Loop counts and tests first
    name = prefix.rpartition(".")[0]
    initial = _initial_state(flow, start)
    return RecurrentLayer(name, cell, "forward", None, size, layers, initial, operator)


def _carried_cell(
    flow: Flow, inputs: Sequence[TensorReading], outputs: Sequence[TensorReading]
) -> RecurrentLayer | None:
    """A cell written out as products and gates, its state carried by the caller.

    Evidence: a float input with an output of its own shape that depends on it through gates,
    while something else is read as well.
    """
    if len(inputs) < 2:
        return None
    known = [replace(o, shape=flow.shapes.get(o.name, o.shape)) for o in outputs]
    pairs = [(i, o) for i in inputs for o in known if _may_continue(i, o)]
    pairs = [(i, o) for i, o in pairs if i.name in flow.ancestors(o.name)]
    if not pairs:
        return None
    starts = {i.name for i, _ in pairs}
    between = frozenset().union(*(flow.descendants(n) for n in starts)) & frozenset().union(
        *(flow.ancestors(o.name) for _, o in pairs)
    )
    cell = _gated_cell([s for s in flow.steps if s.outputs and s.outputs[0] in between])
    if cell is None:
        return None
    kind, layers = cell
    state, shape = sorted(starts)[0], pairs[0][0].shape or (None,)
    size = shape[-1] if isinstance(shape[-1], int) else None
    return RecurrentLayer(
        state, kind, "forward", None, size, layers, f"input:{state}", operator="unrolled"
    )


def _may_continue(state: TensorReading, output: TensorReading) -> bool:
    """Whether the declared shapes allow that an output is the next value of a state."""
    if state.shape is None or output.shape is None or state.datatype != output.datatype:
        return False
    free = [dim for dim in state.shape if not isinstance(dim, int)]
    if len(free) > 1 or len(state.shape) != len(output.shape) or len(free) == len(state.shape):
        return False
    pairs = zip(state.shape, output.shape, strict=True)
    return all(_dims_agree(before, after) for before, after in pairs)


def _dims_agree(before: int | str | None, after: int | str | None) -> bool:
    if isinstance(after, int):
        return before == after
    return True


def _gated_cell(between: list[Step]) -> tuple[Cell, int] | None:
    """Cell and number of layers from the gates: LSTM has three sigmoids, GRU two and a blend."""
    steps = one_branch([(s.branches, s) for s in between])
    operators = [s.operator for s in steps]
    sigmoids, tanhs = operators.count("Sigmoid"), operators.count("Tanh")
    if not tanhs:
        return None
    if not sigmoids:
        return "rnn", tanhs
    if "Sub" in operators and sigmoids % 2 == 0:  # h' = (1 - z) * n + z * h
        return "gru", sigmoids // 2
    return ("lstm", sigmoids // 3) if sigmoids % 3 == 0 else None


def _unrolled_loop(
    flow: Flow, sites: Sequence[Step]
) -> tuple[tuple[RecurrentLayer, ...], tuple[str, ...]]:
    """Loops over time that the exporter wrote out step by step, by weights used in a chain."""
    layers: list[RecurrentLayer] = []
    site_values = {s.outputs[0] for s in sites}
    for name, constant in flow.constants.items():
        chain = _chain(flow, name)
        if len(constant.dims) != 2 or len(chain) < _SHORTEST_UNROLLED:
            continue
        between = flow.descendants(chain[0].outputs[0]) & flow.ancestors(chain[-1].outputs[0])
        cell = _chained_cell([s for s in flow.steps if s.outputs[0] in between], len(chain))
        if cell and not site_values & between:
            size = int(min(constant.dims))
            layers.append(RecurrentLayer(name, cell, "forward", None, size, operator="unrolled"))
    if not layers:
        return (), ()
    return tuple(layers), (
        "the recurrence was written out step by step when it was exported, so only the length of "
        "the example runs: export with torch.onnx.export(..., dynamo=False), which keeps the "
        "recurrent operator",
    )


def _chain(flow: Flow, weight: str) -> list[Step]:
    """Products with one weight, if each needs the result of the one before."""
    names = [weight]
    names += [o for s in flow.consumers.get(weight, ()) for o in s.outputs if o in flow.fixed]
    uses = [s for n in names for s in flow.consumers.get(n, ()) if s.operator in PRODUCTS]
    if len(uses) < _SHORTEST_UNROLLED:
        return []
    after = flow.descendants(uses[0].outputs[0])
    return uses if all(s.outputs[0] in after for s in uses) else []


def _chained_cell(between: list[Step], steps: int) -> Cell | None:
    operators = [s.operator for s in between]
    sigmoids, tanhs = operators.count("Sigmoid"), operators.count("Tanh")
    if tanhs < steps - 1:
        return None
    per_step = round(sigmoids / (steps - 1))
    cells: dict[int, Cell] = {0: "rnn", 2: "gru", 3: "lstm"}
    return cells.get(per_step)
