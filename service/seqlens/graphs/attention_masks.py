"""Masks of ai.onnx ``Attention`` spread over the queries, as the operator's text allows them to be.

The operator broadcasts its mask, so exporters of opset 23 and 24 give a padding mask one row for
all queries, [batch, 1, 1, keys]. ONNX Runtime's CPU kernel wants a row for each query and stops
with "inconsistent q_sequence_length". An ``Expand`` in front changes no value.
"""

from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_node, make_tensor

from seqlens.graphs.onnx_flow import flatten
from seqlens.graphs.tap_bodies import Body, Surgery, own_copy

MASKS_SPREAD = "attention masks were given a row for each query, as ONNX Runtime wants them"
_MASK = 3  # its place among the inputs of Attention


def repair_attention_masks(model: ModelProto) -> ModelProto | None:
    """A copy in which masks of one row have a row for each query, None if there are none.

    Masks of unknown shape are spread too: one that has all its rows stays as it is.
    """
    if max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0) < 23:
        return None  # before the operator was made: spares a copy and an inference of shapes
    copied = own_copy(model)
    shapes = flatten(copied).shapes
    surgery = Surgery(copied)
    found = [
        (body, node)
        for body in surgery.bodies
        for node in list(body.graph.node)
        if _takes_mask(node) and _one_row(shapes.get(body.prefix + node.input[_MASK]))
    ]
    for body, node in found:
        _spread(surgery, body, node)
    return copied if found else None


def _takes_mask(node: NodeProto) -> bool:
    ours = node.op_type == "Attention" and node.domain in ("", "ai.onnx")
    return ours and len(node.input) > _MASK and bool(node.input[_MASK])


def _one_row(shape: tuple[int | str | None, ...] | None) -> bool:
    """Whether a mask has one row for all queries, or may have."""
    return shape is None or (len(shape) > 1 and shape[-2] in (1, None))


def _spread(surgery: Surgery, body: Body, node: NodeProto) -> None:
    queries = 1 if any(a.name == "q_num_heads" for a in node.attribute) else 2
    names = ("rows", "one", "shape", "mask")
    rows, one, shape, mask = (surgery.fresh(f"seqlens_mask_{name}") for name in names)
    last = make_tensor("", TensorProto.INT64, [1], [1])
    added = [
        make_node("Shape", [node.input[0]], [rows], start=queries, end=queries + 1),
        make_node("Constant", [], [one], value=last),
        make_node("Concat", [rows, one], [shape], axis=0),
        # Shorter than the mask's own shape, so that the axes in front stay as they are.
        make_node("Expand", [node.input[_MASK], shape], [mask]),
    ]
    node.input[_MASK] = mask
    surgery.insert_before(body, node, added)
