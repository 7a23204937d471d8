"""Which tensor holds the weights of a softmax, and what to know about it."""

from collections.abc import Iterator
from dataclasses import dataclass

from seqlens.graphs.attention_sites import is_divided_by_sum, plain_product, value_product
from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_walks import walk_forward
from seqlens.graphs.tap_axes import joins_axes, sums_another_axis

_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True, slots=True)
class SoftmaxPlan:
    """The value, by its name in the ``Flow``, that holds the weights."""

    value: str
    note: str = ""


def plan_softmax(flow: Flow, step: Step) -> SoftmaxPlan | str:
    """Where to tap a softmax that weighs values, or the reason why it cannot be tapped."""
    product = value_product(flow, step)
    if product is None:
        return f"the {step.operator} weighs no values"
    if joins_axes(flow, step):
        return "its softmax runs over several axes at once, as before opset 13: none holds the keys"
    if sums_another_axis(flow, step, product):
        return "its softmax runs over another axis than the sum over the values"
    value = _behind_guards(flow, step, product)
    if plain_product(flow, step) is None:
        return SoftmaxPlan(value, "before they are mixed with those of other heads")
    rounded = any(s.operator in _QUANTIZERS for s in _between(flow, step, product))
    return SoftmaxPlan(value, "before rounding to int8" if rounded else "")


def _behind_guards(flow: Flow, step: Step, product: Step) -> str:
    """The softmax's result, behind what removes NaN from it or divides by the sum once more.

    Behind dropout, reshaping or rounding it would no longer be the weights as people know them,
    and behind a scale for each head its rows would not sum to one.
    """
    while guard := next(_guards(flow, step, product), None):
        step = guard
    return _in_its_axes(flow, step, product)


def _in_its_axes(flow: Flow, step: Step, product: Step) -> str:
    """The weights, of which all rows of all sequences may be one axis: behind what splits it."""
    value = step.outputs[0]
    if len(flow.shapes.get(value, ())) != 2:
        return value
    for reader, _ in flow.readers(step):
        splits = reader.operator == "Reshape" and len(flow.shapes.get(reader.outputs[0], ())) > 2
        if splits and any(s is product for s, _ in walk_forward(flow, reader)):
            return reader.outputs[0]
    return value


def _guards(flow: Flow, step: Step, product: Step) -> Iterator[Step]:
    weights = step.outputs[0]
    for reader in flow.consumers.get(weights, ()):
        condition = reader.operator == "Where" and reader.input(0) == weights
        if reader is product or condition or not _keeps_rows(flow, reader):
            continue
        if any(s is product for s, _ in walk_forward(flow, reader)):
            yield reader


def _keeps_rows(flow: Flow, step: Step) -> bool:
    """Whether rows that sum to one do so still: behind a mask only once they are divided again."""
    if step.operator == "Mul":
        return any(is_divided_by_sum(flow, reader) for reader, _ in flow.readers(step))
    return step.operator == "Where" or is_divided_by_sum(flow, step)


def _between(flow: Flow, step: Step, product: Step) -> Iterator[Step]:
    """Operators that read the weights before the product does."""
    for reader, _ in walk_forward(flow, step):
        if reader is product:
            return
        yield reader
