"""What a TorchScript module says about itself, read without running it.

The file tells neither datatypes nor ranks. Where an operator settles them (ids of an embedding,
features of a recurrent layer) they are given; all else is left to probing.
"""

from collections.abc import Iterator
from typing import Any

import torch

from seqlens.graphs.reading import GraphReading, TensorReading
from seqlens.graphs.torchscript_attention import attention_sites
from seqlens.graphs.torchscript_flow import Flow, Module, Operation, Value
from seqlens.graphs.torchscript_operators import (
    COMPARISONS,
    CONVOLUTIONS,
    EMBEDDINGS,
    PROJECTIONS,
    VIEWS,
)
from seqlens.graphs.torchscript_parameters import parameter_groups, precision, table_sizes
from seqlens.graphs.torchscript_recurrence import (
    CELLS,
    LAYERS,
    input_weights,
    recurrent_layers,
    state_shapes,
    unrolled_steps,
)
from seqlens.graphs.torchscript_state import kept_attributes

DATATYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
# Arguments that are Python numbers: inputs without axes.
PLAIN_DATATYPES = {"int": "INT64", "float": "FP64", "bool": "BOOL"}
_WEIGHTED = PROJECTIONS | CONVOLUTIONS


def read_torchscript(module: Module) -> GraphReading:
    """Read a loaded ``torch.jit.ScriptModule`` in eval mode; the module itself is not changed.

    Inputs are the arguments of ``forward`` that ``served_arguments`` names. Outputs are named
    ``output_0``, ``output_1``, ... in the order of the flattened result; none are listed where
    only a run can tell (dict, list, NamedTuple).
    """
    flow = Flow(module)
    sites = attention_sites(flow)
    lookups = {o.index: names for o in flow.of_kind(*EMBEDDINGS) if (names := _ids(flow, o))}
    return GraphReading(
        inputs=tuple(_read_input(flow, a, lookups) for a in served_arguments(module)),
        outputs=tuple(TensorReading(name, None, None) for name in _output_names(module)),
        recurrent_layers=recurrent_layers(flow),
        attention_sites=tuple(found.site for found in sites),
        parameters=parameter_groups(module, flow, sites),
        table_sizes=table_sizes(flow, set(lookups)),
        findings=tuple(_findings(flow)),
        producer=_producer(flow),
        precision=precision(module, flow),
        feature_sizes=_feature_sizes(flow),
    )


def served_arguments(module: Module) -> list[Any]:
    """The arguments of ``forward`` that become inputs.

    Tensors (optional ones too, such as a mask) and plain numbers without a default. All others
    keep their default.
    """
    return [a for a in module.forward.schema.arguments[1:] if _is_served(a)]


def _is_served(argument: Any) -> bool:
    kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
    return kind == "Tensor" or (kind in PLAIN_DATATYPES and not argument.has_default_value())


def _read_input(flow: Flow, argument: Any, lookups: dict[int, list[str]]) -> TensorReading:
    value = list(flow.graph.inputs())[1 + flow.input_names.index(argument.name)]
    plain = PLAIN_DATATYPES.get(str(argument.type))
    if plain is not None:
        return TensorReading(argument.name, plain, (), compared_with=_compared_with(flow, value))
    rows = [
        int(weight.shape[0])
        for index, names in lookups.items()
        if argument.name in names
        for weight in flow.tensors(flow.operations[index].inputs[0])
    ]
    vocabulary = min(rows, default=None)
    datatype = "INT64" if rows else _datatype(flow, value)
    shape = state_shapes(flow).get(argument.name)
    return TensorReading(argument.name, datatype, shape, vocabulary_size=vocabulary)


def _ids(flow: Flow, lookup: Operation) -> list[str]:
    """The inputs whose own values index this table."""
    inputs = [v.unique() for v in flow.graph.inputs()]
    origins = [v.unique() for v in flow.origins(lookup.inputs[1])]
    return [flow.input_names[inputs.index(o) - 1] for o in origins if o in inputs[1:]]


def _datatype(flow: Flow, value: Value) -> str | None:
    """The datatype that the operators which take an input demand, if they demand one."""
    for reached in flow.reach(value, VIEWS | {"aten::cat", "aten::pad"}):
        for user in flow.users.get(reached.unique(), ()):
            lengths = user.argument("lengths")
            if lengths is not None and lengths.unique() == reached.unique():
                return "INT64"
            if weight := _weight(flow, user, reached):
                return DATATYPES.get(weight[0].dtype)
    return None


def _weight(flow: Flow, user: Operation, value: Value) -> list[torch.Tensor]:
    """The weights that ``user`` multiplies ``value`` with; empty if it does no such thing."""
    if user.inputs[0].unique() != value.unique():
        return []
    if user.kind in (*LAYERS, *CELLS):
        return flow.tensors(input_weights(user))
    return flow.tensors(user.inputs[1]) if user.kind in _WEIGHTED else []


def _feature_sizes(flow: Flow) -> tuple[int, ...]:
    """Widths that the weighted operators behind an input take, in order of execution.

    A width that comes too late may run as well: layers of packed sequences do not check it.
    """
    sizes: dict[int, int] = {}
    for value in list(flow.graph.inputs())[1:]:
        for reached in flow.reach(value):
            for user in flow.users.get(reached.unique(), ()):
                weight = _weight(flow, user, reached)
                if weight and weight[0].dim() > 1:
                    size = int(weight[0].shape[1])
                    sizes[size] = min(user.index, sizes.get(size, user.index))
    return tuple(sorted(sizes, key=lambda size: sizes[size]))


def _compared_with(flow: Flow, value: Value) -> tuple[int, ...]:
    """Constants that a number is tested against: the values that its author foresaw."""
    found: list[Any] = []
    for reached in flow.reach(value):
        for user in flow.users.get(reached.unique(), ()):
            if user.kind in COMPARISONS:
                constants = [flow.constant(v) for v in user.inputs if not flow.depends_on(v)]
                found += [n for c in constants for n in (c if isinstance(c, list) else [c])]
    return tuple(dict.fromkeys(n for n in found if isinstance(n, int)))


def _output_names(module: Module) -> list[str]:
    returned = module.forward.schema.returns
    leaves = _leaves(returned[0].type) if len(returned) == 1 else None
    return [f"output_{number}" for number in range(leaves or 0)]


def _leaves(kind: Any) -> int | None:
    """Tensors in a type of tensors and tuples; None where a run has to tell."""
    if str(kind) == "Tensor":
        return 1
    if kind.kind() != "TupleType" or "__torch__" in str(kind):
        return None
    parts = [_leaves(part) for part in kind.elements()]
    return None if None in parts else sum(part or 0 for part in parts)


def _findings(flow: Flow) -> Iterator[str]:
    kept = kept_attributes(flow)
    if kept:
        names = ", ".join(kept[:4]) + (", ..." if len(kept) > 4 else "")
        yield f"keeps state between calls in {names}: every run starts from the file's own state"
    steps = unrolled_steps(flow)
    if steps > 1:
        yield f"traced step by step: a cell appears {steps} times, so only one length may run"
    served = {argument.name for argument in served_arguments(flow.module)}
    skipped = [name for name in flow.input_names if name not in served]
    if skipped:
        yield f"arguments left at their default: {', '.join(skipped)}"
    for operation in flow.of_kind("aten::dropout", "aten::dropout_"):
        if flow.constant(operation.argument("train")) and flow.constant(operation.argument("p")):
            yield "exported in training mode: dropout is on and answers vary; export after eval()"
            return


def _producer(flow: Flow) -> str:
    branches = flow.of_kind("prim::If", "prim::Loop", "prim::RaiseException")
    return "TorchScript, " + ("scripted" if branches else "traced, or scripted without branches")
