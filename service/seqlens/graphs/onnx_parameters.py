"""How many parameters each part of an ONNX model has, and in which precision."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

from onnx import TensorProto

from seqlens.graphs.anatomy import ParameterGroup
from seqlens.graphs.attention_sites import FUSED, score_product, scores_of, value_product
from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_recurrence import is_recurrent
from seqlens.graphs.onnx_walks import PASSES, PRODUCTS, walk_back, walk_forward

PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.FLOAT8E5M2: "fp8",
}
_FLOATS = frozenset({"fp32", "fp64", "fp16", "bf16"})
_NORMALIZATIONS = frozenset(
    {
        "LayerNormalization",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
_EMBEDDINGS = frozenset({"Gather", "EmbedLayerNormalization"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv", "ConvInteger", "QLinearConv"})
_PROJECTION_PASSES = PASSES | {"Add", "Div", "Split", "Gather"}


def count_parameters(flow: Flow, sites: Sequence[Step]) -> tuple[ParameterGroup, ...]:
    """Parameters by part, largest first. Weights that no operator reads are left out."""
    projections = _attention_projections(flow, sites)
    counts: Counter[str] = Counter()
    for name, tensor in _weights(flow):
        reader = next(_readers(flow, name), None)
        if reader is not None:
            counts[_part(flow, reader, projections)] += prod(tensor.dims)
    return tuple(ParameterGroup(part, count) for part, count in counts.most_common())


def find_precision(flow: Flow) -> str:
    """Datatype of most weights: fp32, fp16, bf16, int8, ...

    Where these are floating point numbers, but values that depend on the input are rounded to
    integers somewhere, int8: then the answers move in steps.
    """
    counts: Counter[str] = Counter()
    for _, tensor in _weights(flow):
        counts[PRECISIONS[tensor.data_type]] += prod(tensor.dims)
    most = counts.most_common(1)[0][0] if counts else "fp32"
    return "int8" if most in _FLOATS and any(_rounds(flow, one) for one in flow.steps) else most


def _rounds(flow: Flow, step: Step) -> bool:
    name = step.operator
    quantizes = "Quantize" in name and not name.startswith("Dequantize")
    quantized = "Integer" in name or name.startswith(("QLinear", "QAttention", "QGemm", "QOrdered"))
    return (quantizes or quantized) and step.outputs[0] not in flow.fixed


def _weights(flow: Flow) -> Iterator[tuple[str, TensorProto]]:
    for name, tensor in flow.constants.items():
        if tensor.data_type in PRECISIONS and prod(tensor.dims) > 1:
            yield name, tensor


def _readers(flow: Flow, name: str) -> Iterator[Step]:
    """The first operators that mix a constant with something that is not constant."""
    for step in flow.consumers.get(name, ()):
        if step.outputs[0] in flow.fixed:
            yield from _readers(flow, step.outputs[0])
        else:
            yield step


def _part(flow: Flow, reader: Step, projections: frozenset[str]) -> str:
    operator = reader.operator
    if operator in _EMBEDDINGS:
        return "embedding"
    if is_recurrent(operator):
        return "recurrent"
    if operator in _CONVOLUTIONS:
        return "convolution"
    if operator in _NORMALIZATIONS or _ends_normalization(flow, reader):
        return "normalization"
    if operator in FUSED or reader.outputs[0] in projections:
        return "attention"
    if operator in PRODUCTS:
        return "dense"
    return _bias_part(flow, reader, projections)


def _bias_part(flow: Flow, reader: Step, projections: frozenset[str]) -> str:
    """A bias belongs to the product that it is added to."""
    if reader.operator != "Add":
        return "other"
    source = next((i for i in reader.inputs if i not in flow.fixed), "")
    for step in walk_back(flow, source, PASSES):
        if step.operator in PRODUCTS:
            return "attention" if step.outputs[0] in projections else "dense"
    return "other"


def _ends_normalization(flow: Flow, reader: Step) -> bool:
    """(x - mean) / sqrt(variance) * scale + shift, written out."""
    source = next((i for i in reader.inputs if i in flow.producers and i not in flow.fixed), "")
    before = flow.producers.get(source)
    if before is None:
        return False
    if reader.operator == "Add" and before.operator == "Mul":
        return _ends_normalization(flow, before)
    if reader.operator != "Mul" or before.operator != "Div":
        return False
    divisor = flow.producers.get(before.input(1))
    return divisor is not None and divisor.operator == "Sqrt"


def _attention_projections(flow: Flow, sites: Sequence[Step]) -> frozenset[str]:
    """Results of the products that make queries, keys, values and the heads' output."""
    found: set[str] = set()
    for site in sites:
        product = site if site.operator in FUSED else value_product(flow, site)
        scores = score_product(flow, site)
        operands = [*(product.inputs if product else ()), *(scores.inputs if scores else ())]
        operands += () if scores else (scores_of(flow, site),)
        found.update(filter(None, (_projection_behind(flow, name) for name in operands)))
        if product:
            found.update(_projection_after(flow, product))
    return frozenset(found)


def _projection_behind(flow: Flow, name: str) -> str | None:
    for step in walk_back(flow, name, _PROJECTION_PASSES):
        if _has_weight(flow, step):
            return step.outputs[0]
    return None


def _projection_after(flow: Flow, product: Step) -> Iterator[str]:
    for step, _ in walk_forward(flow, product):
        if _has_weight(flow, step):
            yield step.outputs[0]
            return


def _has_weight(flow: Flow, step: Step) -> bool:
    return step.operator in PRODUCTS and any(i in flow.fixed for i in step.inputs[:2])
