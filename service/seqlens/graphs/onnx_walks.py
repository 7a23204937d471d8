"""Ways through the operators of an ONNX graph along which data stays what it is."""

from collections.abc import Iterator

from seqlens.graphs.onnx_flow import Flow, Step

PRODUCTS = frozenset(
    {
        "MatMul",
        "Einsum",
        "Gemm",
        "FusedMatMul",
        "TransposeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QLinearMatMul",
    }
)
# Operators that hand their data on without mixing it with other data.
PASSES = frozenset(
    {
        "Identity",
        "Cast",
        "CastLike",
        "Dropout",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Flatten",
        "Expand",
        "Where",
        "Mul",
        "Slice",
        "Concat",
        "Split",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Enter",
        "Exit",
    }
)
SCORE_PASSES = PASSES | {
    "Add",
    "Sub",
    "Div",
    "Clip",
    "Tanh",
    "Min",
    "Max",
    "Mod",
    "Pad",
    "ScatterND",
}
_FORWARD_LIMIT, _BACKWARD_LIMIT = 12, 14  # operators; real exports need fewer than half


def walk_forward(flow: Flow, start: Step, *, mixing: bool = False) -> Iterator[tuple[Step, str]]:
    """Readers of a result, nearest first, walking on through operators that pass data on.

    With ``mixing`` also through those that mix it with data like itself: sums, and products
    with constants.
    """
    front, seen = [start], {start.outputs}
    for _ in range(_FORWARD_LIMIT):
        following: list[Step] = []
        for step, name in (pair for s in front for pair in flow.readers(s)):
            if step.operator == "Where" and name == step.input(0):
                continue  # a condition selects; it is not weighed
            divided = step.operator == "Div" and name == step.input(0)
            # A band of weights is padded to become a square.
            passed = step.operator in PASSES | {"Pad"} or divided
            passed = passed or (mixing and _mixes(flow, step, name))
            yield step, name
            if passed and step.outputs not in seen:
                seen.add(step.outputs)
                following.append(step)
        front = following


def _mixes(flow: Flow, step: Step, name: str) -> bool:
    if step.operator in PRODUCTS | {"Conv"}:
        return all(i not in flow.data for i in step.inputs if i != name)
    return step.operator in {"Add", "Sub"}


def _mixes_heads(flow: Flow, step: Step) -> bool:
    """Whether a product with a square constant mixes a tensor [batch, ..., ...] of four axes."""
    if step.operator not in PRODUCTS | {"Conv"} or len(flow.shapes.get(step.outputs[0], ())) < 4:
        return False
    matrices = [flow.constants[i] for i in step.inputs[:2] if i in flow.constants]
    return any(
        len(one.dims) > 1 and one.dims[0] == one.dims[1] and set(one.dims[2:]) <= {1}
        for one in matrices
    )


def walk_back(
    flow: Flow, name: str, passes: frozenset[str], *, mixing: bool = False
) -> Iterator[Step]:
    """Makers of a value, nearest first, walking back through the operators named.

    With ``mixing`` also through what mixes the heads of scores.
    """
    front, seen = [name], {name}
    for _ in range(_BACKWARD_LIMIT):
        steps = [s for s in map(flow.producers.get, front) if s is not None]
        yield from steps
        passed = [s for s in steps if s.operator in passes or (mixing and _mixes_heads(flow, s))]
        sources = [i for s in passed for i in s.inputs]
        front = [i for i in dict.fromkeys(sources) if i in flow.data and i not in seen]
        seen.update(front)
