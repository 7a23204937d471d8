"""The check of a fused kernel's weights: times the values they give its own output."""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto

from seqlens.graphs.attention_sites import FUSED, find_sites
from seqlens.graphs.fused_branch import projection_nodes
from seqlens.graphs.onnx_flow import Flow, Step, flatten
from seqlens.graphs.tap_bodies import Body, Surgery
from seqlens.graphs.tap_types import declared_types, element_type
from seqlens.graphs.taps import tap_model
from seqlens.sequences import Array

_VALUE, _PRESENT_VALUE, _BIAS = 2, 2, 3  # places among inputs, outputs, inputs
_PAST_VALUE = {"": 5, "MultiHeadAttention": 7, "GroupQueryAttention": 4}


@dataclass(frozen=True, slots=True)
class ProductGraph:
    """A model that shows the weights, the values and the output of one kernel."""

    model: ModelProto
    weights: str
    values: str  # [batch, keys, width], the values last in it, or [batch, heads, keys, width]
    bias: str  # added to them, the part of the values last in it; "": nothing is
    output: str  # [batch, queries, width] or [batch, heads, queries, width]
    value_heads: int | None  # None: as many as the weights have

    def error(self, found: dict[str, Array]) -> float:
        """Largest difference of weights times values, in float64, to the kernel's output."""
        weights = found[self.weights].astype(np.float64)
        output = found[self.output].astype(np.float64)
        heads = weights.shape[1]
        expected = output if output.ndim == 4 else _split(output, heads)
        values = self._values(found, heads, expected.shape[-1])
        values = np.repeat(values, heads // values.shape[1], axis=1)[:, :, : weights.shape[-1]]
        return float(np.abs(weights @ values - expected).max(initial=0))

    def _values(self, found: dict[str, Array], heads: int, size: int) -> Array:
        values = found[self.values].astype(np.float64)
        if values.ndim == 4:
            return values
        value_heads = self.value_heads or heads
        width = size * value_heads
        values = values[..., -width:]
        if self.bias:
            values = values + found[self.bias][-width:].astype(np.float64)
        return _split(values, value_heads)


def open_product(model: ModelProto, site: str) -> ProductGraph | None:
    """A copy of a model that shows what a kernel multiplies and what comes of it.

    None for weights that are tensors of the graph, and for kernels in bodies of other operators.
    Raises ``NotInModel`` as ``tap_model`` does.
    """
    tapped = tap_model(model, [site])
    flow = flatten(model)
    step = next(step for step, each in find_sites(flow) if each.name == site)
    surgery = Surgery(tapped.model)
    place = surgery.places.get(next(filter(None, step.outputs)))
    if step.operator not in FUSED or place is None or place.body.operator is not None:
        return None
    values, bias = _values(surgery, flow, step, place.body, place.node)
    names = [name for name in (values, bias, step.outputs[0]) if name]
    known = {output.name for output in tapped.model.graph.output}
    new = [name for name in dict.fromkeys(names) if name not in known]
    tapped.model.graph.output.extend(ValueInfoProto(name=name) for name in new)
    heads = step.attributes.get("kv_num_heads")
    return ProductGraph(tapped.model, tapped.outputs[site], values, bias, step.outputs[0], heads)


def _values(
    surgery: Surgery, flow: Flow, step: Step, body: Body, node: NodeProto
) -> tuple[str, str]:
    """Names of the values, and of what is added to them."""
    if step.operator == "Attention" and step.domain:
        kind = element_type(flow, declared_types(surgery.bodies), step.input(0))
        nodes, name = projection_nodes(node, surgery.fresh, kind)
        surgery.insert_after(body, node, nodes)
        return name, ""
    past = _PAST_VALUE[step.operator if step.domain else ""]
    if step.input(past) or not step.input(_VALUE):  # joined with earlier ones, or packed
        return _present_value(surgery, node), ""
    return step.input(_VALUE), step.input(_BIAS) if step.operator == "MultiHeadAttention" else ""


def _present_value(surgery: Surgery, node: NodeProto) -> str:
    node.output.extend([""] * (_PRESENT_VALUE + 1 - len(node.output)))
    for index in (_PRESENT_VALUE - 1, _PRESENT_VALUE):  # kernels want both or neither
        if not node.output[index]:
            node.output[index] = surgery.fresh("seqlens_present")
    return node.output[_PRESENT_VALUE]


def _split(array: Array, heads: int) -> Array:
    """[batch, positions, width] as [batch, heads, positions, width of a head]."""
    batch, positions, width = array.shape
    return array.reshape(batch, positions, heads, width // heads).swapaxes(1, 2)
