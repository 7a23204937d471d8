"""Which tensor holds the weights of a softmax, and what to know about it."""

from collections.abc import Iterator
from dataclasses import dataclass

from seqlens.graphs.attention_sites import value_product, walk_forward
from seqlens.graphs.onnx_flow import Flow, Step

_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_INT8_NOTE = "before rounding to int8"


@dataclass(frozen=True, slots=True)
class SoftmaxPlan:
    """The value, by its name in the ``Flow``, that holds the weights."""

    value: str
    note: str = ""


def plan_softmax(flow: Flow, step: Step) -> SoftmaxPlan | str:
    """Where to tap a softmax that weighs values, or the reason why it cannot be tapped."""
    product = value_product(flow, step)
    if product is None:
        return f"{step.operator} weighs no values"
    value = _behind_guards(flow, step, product)
    rounded = any(s.operator in _QUANTIZERS for s in _between(flow, step, product))
    return SoftmaxPlan(value, _INT8_NOTE if rounded else "")


def _behind_guards(flow: Flow, step: Step, product: Step) -> str:
    """The softmax's result, behind what removes NaN from it or switches heads off.

    Behind dropout, reshaping or rounding it would no longer be the weights as people know them.
    """
    while guard := next(_guards(flow, step, product), None):
        step = guard
    return step.outputs[0]


def _guards(flow: Flow, step: Step, product: Step) -> Iterator[Step]:
    weights = step.outputs[0]
    for reader in flow.consumers.get(weights, ()):
        condition = reader.operator == "Where" and reader.input(0) == weights
        if reader.operator not in {"Where", "Mul"} or reader is product or condition:
            continue
        if any(s is product for s, _ in walk_forward(flow, reader)):
            yield reader


def _between(flow: Flow, step: Step, product: Step) -> Iterator[Step]:
    """Operators that read the weights before the product does."""
    for reader, _ in walk_forward(flow, step):
        if reader is product:
            return
        yield reader
