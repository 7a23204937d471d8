"""Sequence lengths wired into recurrent operators, so that padding never reaches their state.

An exported LSTM, GRU or RNN seldom has its ``sequence_lens`` connected. Without it the backward
pass of a bidirectional layer starts in the padding, and the final state of any layer ends there.
Connecting it makes padded batches exact without a new export.
"""

from dataclasses import dataclass, replace

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from seqlens.graphs.anatomy import WIRED_FROM, InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.onnx_recurrence import is_recurrent

LENGTHS_INPUT = (
    "seqlens_lengths"  # int64 [batch], added where the model has neither lengths nor mask
)
_SEQUENCE_LENS = 4  # its place among the inputs of LSTM, GRU, RNN and DynamicQuantizeLSTM
_WIRED = "seqlens_sequence_lens"  # int32 [batch]


@dataclass(frozen=True, slots=True)
class WiredModel:
    """A model whose recurrent operators know the lengths, and its anatomy."""

    model: ModelProto
    anatomy: ModelAnatomy


def wire_lengths(model: ModelProto, anatomy: ModelAnatomy) -> WiredModel | None:
    """Connect ``sequence_lens`` of every recurrent operator of the main graph that lacks it.

    Lengths come from the model's own lengths input, else from the real positions of its mask,
    else from a new input. The model given is not changed. None where there is nothing to connect:
    no such operator, no batch, no time axis, or a frozen length. Valid only if the layers run
    over the sequence's own positions: check that full lengths change no answer.
    """
    known = anatomy.fixed_length is not None or not anatomy.batched or not anatomy.has_time
    if known or not any(_lacks_lengths(node) for node in model.graph.node):
        return None
    wired = ModelProto()
    wired.CopyFrom(model)
    source = _source(anatomy)
    count = _connect(wired.graph)
    _put_first(wired.graph, _lengths_nodes(model, source))
    if source is None:
        wired.graph.input.append(_new_input(model, anatomy))
    return WiredModel(wired, _wired_anatomy(anatomy, source, count))


def _lacks_lengths(node: NodeProto) -> bool:
    return is_recurrent(node.op_type) and not "".join(
        node.input[_SEQUENCE_LENS : _SEQUENCE_LENS + 1]
    )


def _source(anatomy: ModelAnatomy) -> InputAnatomy | None:
    """The input that tells the lengths, the model's own lengths first."""
    inputs = [i for i in anatomy.inputs if not i.added_by_server]
    lengths = [i for i in inputs if i.role is InputRole.LENGTHS and len(i.shape) == 1]
    masks = [i for i in inputs if i.role is InputRole.MASK and i.mask_marks and len(i.shape) == 2]
    return next(iter((*lengths, *masks)), None)


def _connect(graph: GraphProto) -> int:
    nodes = [node for node in graph.node if _lacks_lengths(node)]
    for node in nodes:
        node.input.extend([""] * (_SEQUENCE_LENS + 1 - len(node.input)))
        node.input[_SEQUENCE_LENS] = _WIRED
    return len(nodes)


def _put_first(graph: GraphProto, nodes: list[NodeProto]) -> None:
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _lengths_nodes(model: ModelProto, source: InputAnatomy | None) -> list[NodeProto]:
    """Operators that compute the lengths as int32 [batch]."""
    if source is None or source.role is InputRole.LENGTHS:
        name = LENGTHS_INPUT if source is None else source.name
        return [helper.make_node("Cast", [name], [_WIRED], to=TensorProto.INT32)]
    nodes = [helper.make_node("Cast", [source.name], ["seqlens_marks"], to=TensorProto.INT32)]
    marks = "seqlens_marks"
    if source.mask_marks == "padding":
        one = helper.make_tensor("", TensorProto.INT32, [], [1])
        nodes.append(helper.make_node("Constant", [], ["seqlens_one"], value=one))
        nodes.append(helper.make_node("Sub", ["seqlens_one", marks], ["seqlens_real"]))
        marks = "seqlens_real"
    return [*nodes, *_sum_nodes(model, marks, source.time_axis or 0)]


def _sum_nodes(model: ModelProto, name: str, axis: int) -> list[NodeProto]:
    """A sum over one axis; from opset 13 on the axis is an input."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 13:
        return [helper.make_node("ReduceSum", [name], [_WIRED], axes=[axis], keepdims=0)]
    axes = helper.make_tensor("", TensorProto.INT64, [1], [axis])
    return [
        helper.make_node("Constant", [], ["seqlens_axis"], value=axes),
        helper.make_node("ReduceSum", [name, "seqlens_axis"], [_WIRED], keepdims=0),
    ]


def _new_input(model: ModelProto, anatomy: ModelAnatomy) -> ValueInfoProto:
    main = anatomy.sequence_inputs[0]
    declared = next(v for v in model.graph.input if v.name == main.name)
    dim = declared.type.tensor_type.shape.dim[main.batch_axis or 0]
    size = dim.dim_value or dim.dim_param or "batch"
    return helper.make_tensor_value_info(LENGTHS_INPUT, TensorProto.INT64, [size])


def _wired_anatomy(anatomy: ModelAnatomy, source: InputAnatomy | None, count: int) -> ModelAnatomy:
    inputs = anatomy.inputs
    if source is None and anatomy.input(LENGTHS_INPUT) is None:
        size = -1 if anatomy.fixed_batch is None else anatomy.fixed_batch
        inputs = (*inputs, _lengths_anatomy(size))
    name = LENGTHS_INPUT if source is None else source.name
    finding = f"lengths from {name} were wired into {count} recurrent operator{'s' * (count > 1)}"
    findings = anatomy.findings if finding in anatomy.findings else (*anatomy.findings, finding)
    details = {**anatomy.details, WIRED_FROM: name}
    return replace(anatomy, inputs=inputs, findings=findings, details=details)


def _lengths_anatomy(batch: int) -> InputAnatomy:
    return InputAnatomy(
        LENGTHS_INPUT, "INT64", (batch,), InputRole.LENGTHS, batch_axis=0, added_by_server=True
    )
