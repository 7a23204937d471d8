"""Softmaxes of a TorchScript graph, in whichever form they are written, and what they weigh."""

from collections.abc import Iterable
from dataclasses import dataclass

from seqlens.graphs.torchscript_flow import Flow, Operation, Value
from seqlens.graphs.torchscript_operators import (
    COMPARISONS,
    DATA_PRODUCTS,
    HIDING,
    LOGICAL,
    SUMS,
    VIEWS,
)

_WHOLE = ("aten::softmax", "aten::_softmax", "aten::_safe_softmax")
_LOGARITHMS = ("aten::log_softmax", "aten::_log_softmax")
_EXP = ("aten::exp", "aten::exp_")
_DIV = ("aten::div", "aten::div_")
_MUL = ("aten::mul", "aten::mul_")
_SUB = ("aten::sub", "aten::sub_")
_MASKS = VIEWS | {*_MUL, "aten::masked_fill", "aten::masked_fill_", "aten::where"}
# What keeps a divisor from being 0.
_KEEPS_SUM = VIEWS | {
    f"aten::{name}" for name in ("add", "add_", "clamp", "clamp_min", "maximum", "expand_as")
}


@dataclass(frozen=True, slots=True)
class Softmax:
    """Weights that are positive and sum to 1."""

    operation: Operation  # its first output is the weights
    logits: Value


def softmaxes(flow: Flow) -> list[Softmax]:
    """All softmaxes in order of execution.

    Whole ones, exp(log_softmax(x)), exp(x - logsumexp(x)) and exp(x) / sum(exp(x)).
    """
    found = [Softmax(operation, operation.inputs[0]) for operation in flow.of_kind(*_WHOLE)]
    for operation in flow.of_kind(*_EXP):
        logarithm = _origin_of_kind(flow, operation.inputs[0], VIEWS, (*_LOGARITHMS, *_SUB))
        if logarithm is not None and _is_logarithm(flow, logarithm):
            found.append(Softmax(operation, logarithm.inputs[0]))
    for operation in flow.of_kind(*_DIV):
        exponential = _origin_of_kind(flow, operation.inputs[0], _MASKS, _EXP)
        if exponential is not None and _by_own_sum(flow, operation):
            found.append(Softmax(operation, exponential.inputs[0]))
    return sorted(found, key=lambda one: one.operation.index)


def weighing(flow: Flow, softmax: Softmax) -> Operation | None:
    """The operation in which a softmax weighs values that depend on the input.

    A matrix product, or a multiplication that is then summed. None for the softmax of a
    classifier, and for one that weighs a constant table.
    """
    made = softmax.operation
    starts = [*made.outputs, *(made.inputs[:1] if made.kind.endswith("_") else [])]
    weights = _carried(flow, starts)
    for operation in _users(flow, weights):
        if operation.index <= made.index:
            continue
        if operation.kind in DATA_PRODUCTS and _others(flow, operation, weights):
            return operation
        if operation.kind in _MUL and not _hides(flow, operation, weights):
            return operation
    return None


def operands(flow: Flow, operation: Operation) -> list[Value]:
    """Tensor operands; those of einsum lie in a list."""
    found: list[Value] = []
    for value in operation.inputs:
        made = flow.producer.get(value.unique())
        listed = made is not None and made.kind == "prim::ListConstruct"
        found += made.inputs if made is not None and listed else [value]
    return [v for v in found if "Tensor" in str(v.type())]


def _carried(flow: Flow, starts: list[Value]) -> set[int]:
    """All values that are these weights still: moved, cast, some of them hidden, heads scaled."""
    found: set[int] = set()
    todo = list(starts)
    while todo:
        reached = {value.unique() for value in flow.reach(todo.pop(), VIEWS | HIDING)} - found
        found |= reached
        for user in _users(flow, reached):
            if user.kind in _MUL and _hides(flow, user, found):
                todo += [out for out in user.outputs if out.unique() not in found]
    return found


def _hides(flow: Flow, multiplication: Operation, weights: set[int]) -> bool:
    """Whether weights are multiplied by a mask or a constant, instead of by what they weigh."""
    others = _others(flow, multiplication, weights)
    masks = [_is_mask(flow, value) for value in others]
    return all(masks) or not _summed(flow, multiplication)


def _others(flow: Flow, operation: Operation, weights: set[int]) -> list[Value]:
    """Operands beside the weights that depend on the input."""
    others = [v for v in operands(flow, operation) if v.unique() not in weights]
    return [value for value in others if flow.depends_on(value)]


def _is_mask(flow: Flow, value: Value) -> bool:
    made = [flow.producer.get(v.unique()) for v in flow.origins(value, VIEWS | LOGICAL)]
    return all(one is not None and one.kind in COMPARISONS for one in made)


def _summed(flow: Flow, multiplication: Operation) -> bool:
    products = {v.unique() for v in flow.reach(multiplication.outputs[0])}
    return any(user.kind in SUMS for user in _users(flow, products))


def _is_logarithm(flow: Flow, operation: Operation) -> bool:
    if operation.kind not in _SUB:
        return True
    summed = _origin_of_kind(flow, operation.inputs[1], VIEWS, ("aten::logsumexp",))
    return summed is not None and _alike(flow, operation.inputs[0], summed.inputs[0])


def _by_own_sum(flow: Flow, division: Operation) -> bool:
    summed = _origin_of_kind(flow, division.inputs[1], _KEEPS_SUM, tuple(SUMS))
    return summed is not None and _alike(flow, division.inputs[0], summed.inputs[0])


def _alike(flow: Flow, one: Value, other: Value) -> bool:
    """Whether two values are the same one, moved."""
    first, second = ({v.unique() for v in flow.origins(value)} for value in (one, other))
    return first == second


def _origin_of_kind(
    flow: Flow, value: Value, through: frozenset[str], kinds: tuple[str, ...]
) -> Operation | None:
    made = [flow.producer.get(v.unique()) for v in flow.origins(value, through)]
    return next((one for one in made if one is not None and one.kind in kinds), None)


def _users(flow: Flow, values: Iterable[int]) -> list[Operation]:
    found = {user.index: user for value in values for user in flow.users.get(value, ())}
    return [found[index] for index in sorted(found)]
