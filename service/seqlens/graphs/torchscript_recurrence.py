"""Recurrent layers of a TorchScript graph: cuDNN-style operators, cells, and loops over cells."""

from collections import Counter
from collections.abc import Hashable, Iterator

from seqlens.graphs.anatomy import Cell, Direction, RecurrentLayer
from seqlens.graphs.reading import FIRST_AXIS, SECOND_AXIS
from seqlens.graphs.torchscript_flow import (
    Flow,
    Operation,
    Value,
    alternatives,
    attribute,
)
from seqlens.graphs.torchscript_operators import PRODUCTS, VIEWS, ZEROS

LAYERS: dict[str, Cell] = {
    "aten::lstm": "lstm",
    "aten::gru": "gru",
    "aten::rnn_tanh": "rnn",
    "aten::rnn_relu": "rnn",
    "aten::quantized_lstm": "lstm",
    "aten::quantized_gru": "gru",
}
CELLS: dict[str, Cell] = {
    "aten::lstm_cell": "lstm",
    "aten::gru_cell": "gru",
    "aten::rnn_tanh_cell": "rnn",
    "aten::rnn_relu_cell": "rnn",
}
_STATE_VIEWS = VIEWS - {"aten::index"}


def recurrent_layers(flow: Flow) -> tuple[RecurrentLayer, ...]:
    """All recurrent layers in order of execution."""
    operators = flow.of_kind(*LAYERS, *CELLS)
    groups = alternatives(operators, lambda operation: _weights_key(flow, operation))
    found: dict[Hashable, RecurrentLayer] = {}
    for group in groups:
        # A traced loop over a cell is one node a step, all on the same weights: one layer.
        found.setdefault(_weights_key(flow, group[0]), _layer(flow, group[0], len(found)))
    return (*found.values(), *_decomposed(flow), *_loops(flow))


def state_shapes(flow: Flow) -> dict[str, tuple[int | str, ...]]:
    """Inputs that a layer starts from as they are, each with its shape [layers, batch, hidden].

    A traced layer does not check the batch of its states: with another one it reads beyond them.
    """
    names = {v.unique(): n for v, n in zip(_data_inputs(flow), flow.input_names, strict=True)}
    shapes: dict[str, tuple[int | str, ...]] = {}
    for operation in flow.of_kind(*LAYERS):
        hx, (_, hidden) = operation.argument("hx"), _sizes(flow, operation)
        layers = flow.constant(operation.argument("num_layers"))
        if hx is None or hidden is None or layers is None:
            continue
        directions = 2 if flow.constant(operation.argument("bidirectional")) else 1
        batch = FIRST_AXIS if flow.constant(operation.argument("batch_first")) else SECOND_AXIS
        for value in flow.origins(hx, frozenset()):
            if value.unique() in names:
                shapes[names[value.unique()]] = (layers * directions, batch, hidden)
    return shapes


def _data_inputs(flow: Flow) -> list[Value]:
    """The inputs of the graph but for the module itself."""
    return list(flow.graph.inputs())[1:]


def unrolled_steps(flow: Flow) -> int:
    """How often the most repeated cell outside a loop appears; 0 without such a cell."""
    counts = Counter(
        (_weights_key(flow, operation), operation.blocks)
        for operation in flow.of_kind(*CELLS)
        if not any(_is_loop(flow, owner) for owner, _ in operation.blocks)
    )
    return max((*counts.values(), *Counter(_traced_cells(flow)).values()), default=0)


def _traced_cells(flow: Flow) -> Iterator[str]:
    """The module of each cell that tracing has taken apart into products, once for each step."""
    for operation in flow.of_kind("aten::linear"):
        module, _, weight = (flow.path(operation.inputs[1]) or "").rpartition(".")
        if weight == "weight_hh" and module:
            yield module


def _decomposed(flow: Flow) -> Iterator[RecurrentLayer]:
    for name in dict.fromkeys(_traced_cells(flow)):
        module = attribute(flow.module, name)
        hidden = int(module.weight_hh.shape[1])
        gates = int(module.weight_hh.shape[0]) // hidden
        cell: Cell = "lstm" if gates == 4 else "gru" if gates == 3 else "rnn"
        size = int(module.weight_ih.shape[1])
        yield RecurrentLayer(
            name, cell, "forward", size, hidden, initial_state="computed", operator="unrolled"
        )


def _weights_key(flow: Flow, operation: Operation) -> Hashable:
    """What tells apart the layers that share no weights: where the first weight lies."""
    weights = flow.tensors(input_weights(operation))
    return weights[0].data_ptr() if weights else operation.index


def input_weights(operation: Operation) -> Value:
    """The operand of a layer with all its weights, or of a cell with its input weights."""
    found = operation.argument("params", "w_ih")
    return operation.inputs[2] if found is None else found


def _layer(flow: Flow, operation: Operation, number: int) -> RecurrentLayer:
    is_cell = operation.kind in CELLS
    cell = CELLS[operation.kind] if is_cell else LAYERS[operation.kind]
    sizes = _sizes(flow, operation)
    return RecurrentLayer(
        name=_name(flow, operation) or f"{cell}_{number}",
        cell=cell,
        direction=_direction(flow, operation),
        input_size=sizes[0],
        hidden_size=sizes[1],
        layers=flow.constant(operation.argument("num_layers")) or 1,
        initial_state=_initial_state(flow, operation),
        operator=operation.kind,
    )


def _name(flow: Flow, operation: Operation) -> str:
    value = input_weights(operation)
    made = flow.producer.get(value.unique())
    listed = made is not None and made.kind == "prim::ListConstruct" and made.inputs
    path = flow.path(made.inputs[0] if made is not None and listed else value)
    return path.rpartition(".")[0] if path else ""


def _sizes(flow: Flow, operation: Operation) -> tuple[int | None, int | None]:
    """Input size and hidden size, from the first layer's weights [gates * hidden, size]."""
    weights = flow.tensors(input_weights(operation))
    if not weights or weights[0].dim() != 2:  # packed weights of quantised layers
        return None, None
    recurrent = operation.argument("w_hh")
    hidden = flow.tensors(recurrent) if recurrent is not None else weights[1:]
    return int(weights[0].shape[1]), int(hidden[0].shape[1]) if hidden else None


def _direction(flow: Flow, operation: Operation) -> Direction:
    if flow.constant(operation.argument("bidirectional")):
        return "bidirectional"
    flipped = any(
        made.kind == "aten::flip"
        for value in flow.origins(operation.inputs[0], VIEWS - {"aten::flip"})
        if (made := flow.producer.get(value.unique()))
    )
    return "reverse" if flipped else "forward"


def _initial_state(flow: Flow, operation: Operation) -> str:
    """``zeros``, ``input:NAME``, ``constant`` or ``computed``; an input wins over defaults.

    Of an LSTM's two states the hidden one, which comes first, is named.
    """
    hx = operation.argument("hx")
    if hx is None:
        return "computed"
    origins = (_origin(flow, operation, value) for value in flow.origins(hx, _STATE_VIEWS))
    kinds = list(dict.fromkeys(filter(None, origins)))
    given = [kind for kind in kinds if kind.startswith("input:")]
    if given:
        return given[0]
    return kinds[0] if len(kinds) == 1 else "computed"


def _origin(flow: Flow, operation: Operation, value: Value) -> str:
    inputs = [v.unique() for v in _data_inputs(flow)]
    if value.unique() in inputs:
        return f"input:{flow.input_names[inputs.index(value.unique())]}"
    made = flow.producer.get(value.unique())
    if made is None:
        return "computed"
    if made.index == operation.index or made.kind == "prim::Uninitialized":
        return ""  # the loop around a cell hands its state back; a branch that raises
    if made.kind == "prim::Constant" and not flow.tensors(value):
        return ""  # None: the branch that fills it in is another origin
    if made.kind in ZEROS:
        return "zeros"
    path = flow.path(value)
    if path is not None and any(n.node.s("name") == path.rpartition(".")[2] for n in _set(flow)):
        return "computed"  # kept in an attribute from call to call
    return "constant" if flow.tensors(value) else "computed"


def _set(flow: Flow) -> list[Operation]:
    return flow.of_kind("prim::SetAttr")


def _is_loop(flow: Flow, index: int) -> bool:
    return flow.operations[index].kind == "prim::Loop"


def _loops(flow: Flow) -> Iterator[RecurrentLayer]:
    """Loops that carry a tensor through a product and a squashing function: hand-written cells."""
    for loop in flow.of_kind("prim::Loop"):
        body = [o for o in flow.operations if any(i == loop.index for i, _ in o.blocks)]
        if any(o.kind in LAYERS or o.kind in CELLS for o in body):
            continue
        cell = _hand_written(loop, body)
        if cell is not None:
            yield RecurrentLayer(f"loop_{loop.index}", cell, "forward", None, None, operator="loop")


def _hand_written(loop: Operation, body: list[Operation]) -> Cell | None:
    block = next(iter(loop.node.blocks()))
    carried = [v for v in list(block.inputs())[1:] if str(v.type()).startswith("Tensor")]
    kinds = [o.kind for o in body]
    squashed = kinds.count("aten::sigmoid"), kinds.count("aten::tanh")
    fed_back = _fed_back({v.unique() for v in carried}, body)
    if not carried or not fed_back or sum(squashed) == 0:
        return None
    if squashed[0] == 0:
        return "rnn"
    return "lstm" if len(carried) > 1 and squashed[0] > 2 else "gru"


def _fed_back(carried: set[int], body: list[Operation]) -> bool:
    """Whether a carried tensor reaches a product inside the loop."""
    reached = set(carried)
    for operation in body:
        if any(v.unique() in reached for v in operation.inputs):
            if operation.kind in PRODUCTS:
                return True
            reached |= {v.unique() for v in operation.outputs}
    return False
