"""Which axis a softmax runs over, and whether the product with the values sums over the same.

Axes count from the end, as far as the rank of a value is known: broadcasting adds axes in front.
"""

from collections.abc import Iterator

import onnx

from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_walks import PASSES, PRODUCTS

_SAME_AXES = frozenset({"Identity", "Cast", "CastLike", "Dropout", "Where", "Mul", "Div"})
_KEEPING = _SAME_AXES | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_SINGLE_AXIS = 13  # the opset from which on a softmax runs over one axis


def joins_axes(flow: Flow, step: Step) -> bool:
    """Whether a softmax of an old opset runs over its axis and all behind it as one."""
    softmax = _with_axis(flow, step)
    if softmax.operator not in {"Softmax", "LogSoftmax"} or flow.opset >= _SINGLE_AXIS:
        return False
    shape, axis = flow.shapes.get(softmax.outputs[0]), softmax.attributes.get("axis", 1)
    behind = shape[axis:][1:] if shape is not None else ()
    return any(size != 1 for size in behind)


def sums_another_axis(flow: Flow, step: Step, product: Step) -> bool:
    """Whether the product is known to sum over another axis than the softmax's."""
    axis = _softmax_axis(flow, step)
    return axis is not None and _leads_astray(flow, step.outputs[0], axis, product)


def _with_axis(flow: Flow, step: Step) -> Step:
    """The operator that states the axis of a softmax that is written out."""
    if step.operator == "Exp":
        source = flow.producers[step.input(0)]
        return flow.producers[source.input(1)] if source.operator == "Sub" else source
    if step.operator == "Div":
        ancestors = flow.producers[step.input(1)]
        while ancestors.operator != "ReduceSum":
            ancestors = next(filter(None, map(flow.producers.get, ancestors.inputs)))
        return ancestors
    return step


def _softmax_axis(flow: Flow, step: Step) -> int | None:
    stated = _with_axis(flow, step)
    if stated.operator in {"ReduceSum", "ReduceLogSumExp"}:
        axes = _axes(flow, stated)
        return _from_end(flow, stated.input(0), axes[0]) if len(axes) == 1 else None
    default = -1 if flow.opset >= _SINGLE_AXIS else 1
    return _from_end(flow, stated.outputs[0], stated.attributes.get("axis", default))


def _leads_astray(flow: Flow, name: str, axis: int, product: Step) -> bool:
    """Whether every way to the product on which the axis can be followed ends at another one."""
    found = list(_arrivals(flow, name, axis, product, depth=12))
    return bool(found) and not any(found)


def _arrivals(flow: Flow, name: str, axis: int, product: Step, depth: int) -> Iterator[bool]:
    """For each way to the product, whether it sums over the axis or may do so."""
    for reader in flow.consumers.get(name, ()) if depth else ():
        if reader is product:
            yield _sums(flow, product, name, axis)
        elif reader.operator in PASSES or reader.operator == "Div":
            moved = _moved(flow, reader, axis)
            if moved is None:
                yield True  # not followed further: nothing is known against it
                continue
            for output in reader.outputs:
                yield from _arrivals(flow, output, moved, product, depth - 1)


def _moved(flow: Flow, step: Step, axis: int) -> int | None:
    """Where an axis lies behind an operator, None where that is not followed."""
    if step.operator == "Transpose" and "perm" in step.attributes:
        order = list(step.attributes["perm"])
        return order.index(len(order) + axis) - len(order)
    if step.operator == "Unsqueeze":
        added = [_from_end(flow, step.outputs[0], each) for each in _axes(flow, step)]
        if not added or None in added:
            return None
        for place in sorted((each for each in added if each is not None), reverse=True):
            axis -= place >= axis
        return axis
    return axis if step.operator in _KEEPING else None


def _sums(flow: Flow, product: Step, name: str, axis: int) -> bool:
    """Whether a product sums over an axis of one of its inputs; true where that is not known."""
    if product.operator == "Einsum":
        inputs, _, output = str(_text(product.attributes["equation"])).partition("->")
        letters = inputs.split(",")[product.inputs.index(name)].strip()
        return "." in letters or not output or letters[axis] not in output
    if product.operator in PRODUCTS and not _transposed(product):
        return axis == (-1 if product.input(0) == name else -2)
    return True


def _transposed(product: Step) -> bool:
    return any(product.attributes.get(name) for name in ("transA", "transB"))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _axes(flow: Flow, step: Step) -> list[int]:
    """Axes of an operator: an attribute once, an input from opset 13 on."""
    if "axes" in step.attributes:
        return list(step.attributes["axes"])
    tensor = flow.constants.get(step.input(1))
    return [] if tensor is None else [int(i) for i in onnx.numpy_helper.to_array(tensor).ravel()]


def _from_end(flow: Flow, name: str, axis: int) -> int | None:
    if axis < 0:
        return axis
    shape = flow.shapes.get(name)
    return None if shape is None else axis - len(shape)
