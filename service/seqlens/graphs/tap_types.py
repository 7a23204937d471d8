"""Types of the elements of values inside a graph, which files seldom state.

Only what a new input, or the branch of an If that lacks a value, must declare is asked for, so
types are followed backwards from one value; shape inference would copy the whole model.
"""

import onnx
from onnx import TensorProto

from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.tap_bodies import Body

# The input whose type an operator's first output has; of all others it is input 0.
_TYPED_BY = {
    "Where": 1,
    "CastLike": 1,
    "DequantizeLinear": 1,
    "EmbedLayerNormalization": 2,
    "MatMulIntegerToFloat": 2,
    "DynamicQuantizeMatMul": 0,
    "If": 1,
    "OneHot": 2,
}
_INTEGERS = {"MatMulInteger": TensorProto.INT32, "Shape": TensorProto.INT64}


def declared_types(bodies: list[Body]) -> dict[str, int]:
    """Element types that the file itself states, by name in the ``Flow``."""
    found: dict[str, int] = {}
    for body in bodies:
        graph = body.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            if kind := value.type.tensor_type.elem_type:
                found[body.prefix + value.name] = kind
    return found


def element_type(flow: Flow, declared: dict[str, int], name: str) -> int:
    """Element type of a value of floats, followed back to where one is stated."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        if name in declared:
            return declared[name]
        if name in flow.constants:
            return flow.constants[name].data_type
        step = flow.producers.get(name)
        if step is None:
            break
        if (stated := _stated(step)) is not None:
            return stated
        name = step.input(_TYPED_BY.get(step.operator, 0))
    return TensorProto.FLOAT  # by far the most common


def _stated(step: Step) -> int | None:
    if step.operator in {"Cast", "RandomNormal", "RandomUniform", "EyeLike"}:
        return step.attributes.get("to", step.attributes.get("dtype"))
    if step.operator == "ConstantOfShape":
        value = step.attributes.get("value")
        return value.data_type if isinstance(value, onnx.TensorProto) else TensorProto.FLOAT
    return _INTEGERS.get(step.operator)
