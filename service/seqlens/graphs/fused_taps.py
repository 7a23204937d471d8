"""Weights of the operators that compute attention in one kernel.

Some kernels give their weights, or the scores before the softmax, as an output that exporters
leave out. Beside the others a branch computes them from what the kernel reads. The kernel's own
output stays what it was, to the last bit.

After the operators' definitions in ONNX 1.19 (opsets 23 and 24) and ONNX Runtime's
``ContribOperators.md``.
"""

from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto
from onnx.helper import make_attribute, make_node

from seqlens.graphs.fused_branch import ProjectedBranch, branch_nodes
from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.tap_bodies import Place, Surgery, typed

Way = Literal["output", "twin", "scores", "scores_of_twin", "branch"]
_WEIGHTS = 3  # place among the outputs of the kernels that have them
_QK_MODE = {"Attention": ("qk_matmul_output_mode", 3), "GroupQueryAttention": ("qk_output", 2)}
_REFUSED = {
    "PackedAttention": "its rows are packed without padding, so that maps have no batch",
    "PackedMultiHeadAttention": "its rows are packed without padding, so that maps have no batch",
    "PagedAttention": "its keys lie in the pages of a cache",
    "QAttention": "it projects and multiplies in int8, which no branch beside it can repeat",
    "QOrderedAttention": "it projects and multiplies in int8, which no branch beside it can repeat",
    "DecoderMaskedMultiHeadAttention": "it reads a cache of earlier steps",
    "DecoderMaskedSelfAttention": "it reads a cache of earlier steps",
    "DecoderAttention": "it reads a cache of earlier steps",
    "LongformerAttention": "it weighs a sliding window instead of all keys",
    "SparseAttention": "it weighs blocks of keys instead of all of them",
}
_RECOMPUTED = "softmax of the kernel's own scores"
_AGAIN = "from a second run of the kernel"
_BRANCH = "recomputed from what the kernel reads"


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """How the weights of one kernel can be had."""

    anchor: str  # an output of the kernel, by its name in the Flow
    query: str  # a value of the weights' own datatype, by its name in the Flow
    way: Way
    branch: ProjectedBranch | None = None  # for the way of that name

    @property
    def measured(self) -> bool:
        """Whether the kernel itself gives the weights."""
        return self.way in {"output", "twin"}

    @property
    def note(self) -> str:
        """What to know about the weights."""
        notes: dict[Way, str] = {
            "output": "",
            "twin": _AGAIN,
            "scores": _RECOMPUTED,
            "scores_of_twin": f"{_RECOMPUTED}, {_AGAIN}",
            "branch": _BRANCH,
        }
        return notes[self.way]


def plan_fused(flow: Flow, step: Step) -> FusedPlan | str:
    """How to have the weights of a fused operator, or the reason why they cannot be had."""
    if step.operator in _REFUSED:
        return f"{step.full_name}: {_REFUSED[step.operator]}"
    anchor = next(filter(None, step.outputs))
    if step.operator == "MultiHeadAttention":
        return _plan_multi_head(step, anchor)
    if step.operator == "Attention" and step.domain:
        branch = ProjectedBranch.of(flow, step)
        if isinstance(branch, str):
            return f"{step.full_name}: {branch}"
        return FusedPlan(anchor, step.input(0), "branch", branch)
    attribute, mode = _QK_MODE[step.operator]
    given = _has_output(step) and step.attributes.get(attribute, 0) == mode
    # Asked for its weights, a GroupQueryAttention computes its output in another order.
    free = step.operator == "Attention" and not _has_output(step)
    return FusedPlan(anchor, step.input(0), "output" if given or free else "twin")


def _plan_multi_head(step: Step, anchor: str) -> FusedPlan | str:
    if not step.input(1) or not step.input(2):
        return f"{step.full_name}: its queries, keys and values are packed in one tensor"
    # Without masks and caches a kernel of another kind runs, which has no scores to give.
    masked = any(map(step.input, (4, 5, 6))) or step.attributes.get("unidirectional")
    own = masked or _has_output(step)
    return FusedPlan(anchor, step.input(0), "scores" if own else "scores_of_twin")


def _has_output(step: Step) -> bool:
    return len(step.outputs) > _WEIGHTS and bool(step.outputs[_WEIGHTS])


def add_weights(surgery: Surgery, place: Place, plan: FusedPlan, elem_type: int) -> str:
    """Have the weights computed in the graph of the kernel, in place; their name there.

    Shape [batch, heads, queries, keys]. ``elem_type`` is that of ``plan.query``.
    """
    if plan.branch is not None:
        nodes, weights = branch_nodes(plan.branch, place.node, surgery.fresh, elem_type)
        surgery.insert_after(place.body, place.node, nodes)
        return weights
    kernel = place.node
    if plan.way in {"twin", "scores_of_twin"}:
        kernel = _twin(surgery, place.node)
        surgery.insert_after(place.body, place.node, [kernel])
        kernel = next(node for node in place.body.graph.node if node.output == kernel.output)
    given = _last_output(surgery, kernel)
    # ONNX Runtime infers no type for the optional outputs of its own operators.
    place.body.graph.value_info.extend(typed(name, elem_type) for name in kernel.output if name)
    if plan.measured:
        return given
    weights = surgery.fresh("seqlens_fused_weights")
    softmax = make_node("Softmax", [given], [weights], axis=-1)
    surgery.insert_after(place.body, kernel, [softmax])
    return weights


def _twin(surgery: Surgery, node: NodeProto) -> NodeProto:
    """The same kernel once more, for what the first cannot give without changing its ways."""
    twin = NodeProto()
    twin.CopyFrom(node)
    twin.name = surgery.fresh(f"{node.name}_seqlens_twin")
    del twin.output[_WEIGHTS:]
    for index, name in enumerate(twin.output):
        twin.output[index] = surgery.fresh(f"{name}_twin") if name else ""
    return twin


def _last_output(surgery: Surgery, node: NodeProto) -> str:
    """The output of weights or scores, asked for if it is not yet."""
    node.output.extend([""] * (_WEIGHTS + 1 - len(node.output)))
    if not node.output[_WEIGHTS]:
        node.output[_WEIGHTS] = surgery.fresh("seqlens_kernel_weights")
    if node.op_type in _QK_MODE:
        name, mode = _QK_MODE[node.op_type]
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, make_attribute(name, mode)])
    return node.output[_WEIGHTS]
