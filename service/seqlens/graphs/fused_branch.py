"""The weights of com.microsoft.Attention, computed beside the kernel from what it reads."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto
from onnx.helper import make_node, make_tensor, tensor_dtype_to_np_dtype

from seqlens.graphs.onnx_flow import Flow, Step

# Places among the inputs.
_INPUT, _WEIGHTS, _BIAS, _MASK, _PAST, _ATTENTION_BIAS = range(6)
_HIDES = -10_000.0  # what the kernel adds to the scores of padding, unless it says otherwise


@dataclass(frozen=True, slots=True)
class ProjectedBranch:
    """What has to be known of a kernel to repeat it."""

    heads: int
    widths: tuple[int, int, int]  # of all queries, keys and values of a position
    scale: float
    hides: float  # added to the scores of padding
    causal: bool
    mask_axes: int  # 0: no mask, 1: lengths [batch], or ends and starts [2 * batch], 2: a mask
    biased: bool  # something is added to the scores

    @classmethod
    def of(cls, flow: Flow, step: Step) -> "ProjectedBranch | str":
        """Read it off an operator; a text says why the kernel cannot be repeated."""
        heads, widths = step.attributes["num_heads"], _widths(flow, step)
        if step.input(_PAST):
            return "it reads a cache of earlier steps"
        if step.attributes.get("do_rotary"):
            return "it turns queries and keys by their positions"
        if widths is None:
            return "the width of its heads is not known"
        axes = _mask_axes(flow, step.input(_MASK))
        if axes not in {0, 1, 2}:
            return f"its mask has {axes or 'an unknown number of'} axes"
        scale = step.attributes.get("scale") or 1 / math.sqrt(widths[0] / heads)
        return cls(
            heads=heads,
            widths=widths,
            scale=float(scale),
            hides=float(step.attributes.get("mask_filter_value", _HIDES)),
            causal=bool(step.attributes.get("unidirectional", 0)),
            mask_axes=axes,
            biased=bool(step.input(_ATTENTION_BIAS)),
        )


def _widths(flow: Flow, step: Step) -> tuple[int, int, int] | None:
    if sizes := step.attributes.get("qkv_hidden_sizes"):
        return sizes[0], sizes[1], sizes[2]
    for name in (step.input(_WEIGHTS), step.input(_BIAS)):
        table = flow.constants.get(name)
        shape = tuple(table.dims) if table is not None else flow.shapes.get(name, ())
        if shape and isinstance(shape[-1], int):
            return (shape[-1] // 3,) * 3
    return None


def _mask_axes(flow: Flow, name: str) -> int | None:
    if not name:
        return 0
    maker = flow.producers.get(name)
    if maker is not None and maker.operator == "EmbedLayerNormalization":
        return 1  # its second output: the lengths
    shape = flow.shapes.get(name)
    return None if shape is None else len(shape)


@dataclass(slots=True)
class _Writer:
    """Operators, each with a new name for what it makes."""

    fresh: Callable[[str], str]
    elem_type: int
    nodes: list[NodeProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self.fresh(f"seqlens_{operator.lower()}")
        self.nodes.append(make_node(operator, inputs, [name], **attributes))
        return name

    def integers(self, values: Iterable[int]) -> str:
        numbers = list(values)
        value = make_tensor("", TensorProto.INT64, [len(numbers)], numbers)
        return self.add("Constant", value=value)

    def integer(self, value: int) -> str:
        return self.add("Constant", value=make_tensor("", TensorProto.INT64, [], [value]))

    def number(self, value: float) -> str:
        return self.add("Constant", value=make_tensor("", self.elem_type, [], [value]))

    def slice(self, name: str, start: str, end: str, axis: int) -> str:
        return self.add("Slice", name, start, end, self.integers([axis]))

    def size(self, name: str, axis: int) -> str:
        """The size of an axis, as a tensor of one element."""
        return self.add("Gather", self.add("Shape", name), self.integers([axis]), axis=0)

    def counted(self, name: str, axis: int) -> str:
        """0, 1, 2, ... along an axis of a value."""
        size = self.add("Reshape", self.size(name, axis), self.integers([]))
        return self.add("Range", self.integer(0), size, self.integer(1))


def branch_nodes(
    branch: ProjectedBranch, node: NodeProto, fresh: Callable[[str], str], elem_type: int
) -> tuple[list[NodeProto], str]:
    """Operators that compute the weights of a kernel, and the name of the weights."""
    write = _Writer(fresh, elem_type)
    inputs = [*node.input, *[""] * (_ATTENTION_BIAS + 1 - len(node.input))]
    both = _projected(write, inputs)
    query = _split(write, both, branch, 0, [0, 2, 1, 3])
    key = _split(write, both, branch, 1, [0, 2, 3, 1])
    scores = write.add("Mul", write.add("MatMul", query, key), write.number(branch.scale))
    if branch.mask_axes:
        hidden = _padding(write, branch, inputs[_MASK], inputs[_INPUT])
        nothing, hides = write.number(0.0), write.number(branch.hides)
        scores = write.add("Add", scores, write.add("Where", hidden, hides, nothing))
    if branch.causal:
        lowest = float(np.finfo(tensor_dtype_to_np_dtype(elem_type)).min)
        scores = write.add("Where", _future(write, inputs[_INPUT]), write.number(lowest), scores)
    if branch.biased:
        scores = write.add("Add", scores, inputs[_ATTENTION_BIAS])
    return write.nodes, write.add("Softmax", scores, axis=-1)


def projection_nodes(
    node: NodeProto, fresh: Callable[[str], str], elem_type: int
) -> tuple[list[NodeProto], str]:
    """Operators that compute queries, keys and values, side by side, and the name of these."""
    write = _Writer(fresh, elem_type)
    name = _projected(write, [*node.input, ""])
    return write.nodes, name


def _projected(write: _Writer, inputs: list[str]) -> str:
    product = write.add("MatMul", inputs[_INPUT], inputs[_WEIGHTS])
    return write.add("Add", product, inputs[_BIAS]) if inputs[_BIAS] else product


def _split(write: _Writer, both: str, branch: ProjectedBranch, part: int, order: list[int]) -> str:
    start, width = sum(branch.widths[:part]), branch.widths[part]
    part_of = write.slice(both, write.integers([start]), write.integers([start + width]), 2)
    shape = write.integers([0, 0, branch.heads, width // branch.heads])
    return write.add("Transpose", write.add("Reshape", part_of, shape), perm=order)


def _padding(write: _Writer, branch: ProjectedBranch, mask: str, source: str) -> str:
    """Where keys are padding, [batch, 1, 1, keys]."""
    numbers = write.add("Cast", mask, to=TensorProto.INT64)
    if branch.mask_axes == 2:
        rows = write.add("Reshape", numbers, write.integers([0, 1, 1, -1]))
        return write.add("Less", rows, write.integer(1))
    # Lengths, or the ends of all rows followed by their starts: zeros stand in for these.
    batch, column = write.size(source, 0), write.integers([-1, 1, 1, 1])
    starts_from = write.add("Expand", write.integer(0), batch)
    longer = write.add("Concat", numbers, starts_from, axis=0)
    ends = write.slice(longer, write.integers([0]), batch, 0)
    starts = write.slice(longer, batch, write.add("Add", batch, batch), 0)
    places = write.counted(source, 1)
    early = write.add("Less", places, write.add("Reshape", starts, column))
    before_end = write.add("Less", places, write.add("Reshape", ends, column))
    return write.add("Or", early, write.add("Not", before_end))


def _future(write: _Writer, source: str) -> str:
    """Where keys come after queries, [queries, keys]."""
    places = write.counted(source, 1)
    queries = write.add("Reshape", places, write.integers([-1, 1]))
    return write.add("Greater", places, queries)
