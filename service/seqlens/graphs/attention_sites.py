"""Where an ONNX graph computes attention weights.

A softmax alone proves nothing: classifiers end in one. Attention is a softmax whose result
weighs values that themselves depend on the input, by a product (``MatMul``, ``Einsum``) or by a
multiplication that is then summed. Fused operators are known by name.
"""

from dataclasses import replace
from itertools import count

from seqlens.graphs.anatomy import AttentionKind, AttentionSite
from seqlens.graphs.onnx_flow import Flow, Step, one_branch
from seqlens.graphs.onnx_walks import PRODUCTS, SCORE_PASSES, walk_back, walk_forward

FUSED = frozenset(
    {
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "QAttention",
        "DecoderMaskedMultiHeadAttention",
        "DecoderMaskedSelfAttention",
        "DecoderAttention",
        "LongformerAttention",
        "SparseAttention",
        "PagedAttention",
        "QOrderedAttention",
    }
)
_ADDITIVE_PASSES = SCORE_PASSES | PRODUCTS


def find_sites(flow: Flow) -> tuple[tuple[Step, AttentionSite], ...]:
    """All attention sites in order of execution, each with the operator that it is.

    Names are unique: where operators share one, the later ones get a number behind it.
    """
    found = [(place, step, _site(flow, step)) for place, step in enumerate(flow.steps)]
    known = [(step.branches, (place, step, site)) for place, step, site in found if site]
    kept = sorted(one_branch(known), key=lambda each: each[0])
    names = _unique([site.name for _, _, site in kept])
    return tuple(
        (step, replace(site, name=name, layer=layer))
        for layer, ((_, step, site), name) in enumerate(zip(kept, names, strict=True))
    )


def _unique(names: list[str]) -> list[str]:
    taken, found = set(names), set[str]()
    unique: list[str] = []
    for name in names:
        free = (f"{name}_{number}" for number in count(2))
        chosen = name if name not in found else next(n for n in free if n not in taken | found)
        found.add(chosen)
        unique.append(chosen)
    return unique


def value_product(flow: Flow, weights: Step) -> Step | None:
    """The operator in which attention weights meet the values, None for any other softmax.

    On the way, weights of queries and keys may be mixed with those of other heads.
    """
    found = plain_product(flow, weights)
    if found is None and score_product(flow, weights) is not None:
        return _product(flow, weights, mixing=True)
    return found


def plain_product(flow: Flow, weights: Step) -> Step | None:
    """The operator in which the weights themselves meet the values, not mixed with others."""
    return _product(flow, weights, mixing=False)


def _product(flow: Flow, weights: Step, *, mixing: bool) -> Step | None:
    derived = flow.descendants(weights.outputs[0])
    for step, name in walk_forward(flow, weights, mixing=mixing):
        others = [i for i in step.inputs if i and i != name]
        if step.operator in PRODUCTS and any(o in flow.data and o not in derived for o in others):
            return step
        if step.operator == "Mul" and _weighs_data(flow, step, others, derived):
            return step
    return None


def score_product(flow: Flow, weights: Step) -> Step | None:
    """The product of queries and keys, None where the scores come from elsewhere."""
    for step in walk_back(flow, scores_of(flow, weights), SCORE_PASSES, mixing=True):
        if step.operator in PRODUCTS and sum(i in flow.data for i in step.inputs[:2]) == 2:
            return step
    return None


def scores_of(flow: Flow, weights: Step) -> str:
    """The value that a softmax, written out or not, is taken of."""
    name = weights.input(0)
    if weights.operator == "Div":
        name = _raised(flow, name) or name
    while (step := flow.producers.get(name)) and (
        step.operator in {"Exp", "LogSoftmax"} or _lessens_by_log_sum(flow, step)
    ):
        name = step.input(0)
    return name


def is_softmax(flow: Flow, step: Step) -> bool:
    """Softmax itself, or one written out: exp(log_softmax(x)), exp(x) / sum(exp(x)), the like."""
    if step.operator == "Softmax":
        return True
    if step.operator == "Exp":
        source = flow.producers.get(step.input(0))
        if source is None:
            return False
        return source.operator == "LogSoftmax" or _lessens_by_log_sum(flow, source)
    return is_divided_by_sum(flow, step) and _raised(flow, step.input(0)) is not None


def _lessens_by_log_sum(flow: Flow, step: Step) -> bool:
    """Whether this is x - log(sum(exp(x))), a log_softmax written out."""
    total = flow.producers.get(step.input(1))
    if step.operator != "Sub" or total is None or total.operator != "ReduceLogSumExp":
        return False
    return total.input(0) == step.input(0)


def is_divided_by_sum(flow: Flow, step: Step) -> bool:
    """Whether something is divided by its own sum, guarded by a small constant or not."""
    if step.operator != "Div":
        return False
    bottom = flow.producers.get(step.input(1))
    if bottom is not None and bottom.operator in {"Add", "Max", "Clip"}:
        bottom = next(filter(None, map(flow.producers.get, bottom.inputs)), None)
    total = bottom is not None and bottom.operator == "ReduceSum"
    return bottom is not None and total and bottom.input(0) == step.input(0)


def _raised(flow: Flow, name: str) -> str | None:
    """The exponential behind a value, from which a mask may have removed some."""
    step = flow.producers.get(name)
    if step is None or step.operator not in {"Exp", "Mul", "Where"}:
        return None
    if step.operator == "Exp":
        return name
    return next(
        (i for i in step.inputs if (s := flow.producers.get(i)) and s.operator == "Exp"), None
    )


def _site(flow: Flow, step: Step) -> AttentionSite | None:
    if step.operator in FUSED:
        heads = step.attributes.get("num_heads", step.attributes.get("q_num_heads"))
        kind = _fused_kind(flow, step)
        return AttentionSite(step.name, 0, kind, step.full_name, heads)
    if not is_softmax(flow, step) or step.outputs[0] not in flow.data:
        return None
    if value_product(flow, step) is None:
        return None
    scores = score_product(flow, step)
    if scores is None:
        return None if _chooses_experts(flow, step) else _undotted_site(flow, step)
    kind = _dot_kind(flow, *scores.inputs[:2])
    return AttentionSite(step.name, 0, kind, step.operator, _heads(flow, step))


def _undotted_site(flow: Flow, step: Step) -> AttentionSite:
    kind: AttentionKind = "additive" if _adds_two_sources(flow, step) else "pooling"
    return AttentionSite(step.name, 0, kind, step.operator, confidence=0.7)


def _heads(flow: Flow, step: Step) -> int | None:
    shape = flow.shapes.get(step.outputs[0], ())
    return shape[1] if len(shape) == 4 and isinstance(shape[1], int) else None


def _chooses_experts(flow: Flow, step: Step) -> bool:
    """A gate over experts looks like attention, but its width never follows a length."""
    shape = flow.shapes.get(step.outputs[0], ())
    declared = [dim for name in flow.inputs for dim in flow.shapes.get(name, ())]
    default = -1 if flow.opset >= 13 else 1
    axis = step.attributes.get("axis", default) if step.operator == "Softmax" else -1
    width = shape[axis] if shape else None
    if not isinstance(width, int) or width == 1 or _asks_keys(flow, step):
        return False
    return width not in declared and any(not isinstance(dim, int) for dim in declared)


def _asks_keys(flow: Flow, step: Step) -> bool:
    """Whether a learned query is multiplied by keys; a gate multiplies its input by weights."""
    makers = walk_back(flow, scores_of(flow, step), SCORE_PASSES)
    product = next((maker for maker in makers if maker.operator in PRODUCTS), None)
    return product is not None and product.input(0) not in flow.data


def _fused_kind(flow: Flow, step: Step) -> AttentionKind:
    if step.operator == "Attention" and step.domain:
        return "self"  # com.microsoft.Attention projects query, key and value from one input
    if step.input(1) not in flow.data:
        return "self"
    return _dot_kind(flow, step.input(0), step.input(1))


def _dot_kind(flow: Flow, query: str, key: str) -> AttentionKind:
    """Self-attention asks and answers from the same graph inputs."""
    return "self" if _origins(flow, query) == _origins(flow, key) else "cross"


def _origins(flow: Flow, name: str) -> frozenset[str]:
    """Graph inputs whose values reach this one."""
    reached, waiting = {name}, [name]
    while waiting:
        step = flow.producers.get(waiting.pop())
        for source in step.inputs if step else ():
            if source in flow.data and source not in reached:
                reached.add(source)
                waiting.append(source)
    return frozenset(reached & set(flow.inputs))


def _adds_two_sources(flow: Flow, weights: Step) -> bool:
    """Whether tanh(query + key) lies behind the scores."""
    for tanh in walk_back(flow, scores_of(flow, weights), _ADDITIVE_PASSES):
        if tanh.operator != "Tanh":
            continue
        for step in walk_back(flow, tanh.input(0), SCORE_PASSES):
            if step.operator == "Add" and all(i in flow.data for i in step.inputs):
                return True
    return False


def _weighs_data(flow: Flow, step: Step, others: list[str], derived: frozenset[str]) -> bool:
    if not any(o in flow.data and o not in derived for o in others):
        return False
    readers = [reader for reader, _ in flow.readers(step)]
    if any(is_divided_by_sum(flow, reader) for reader in readers):
        return False  # a mask: what is left of the weights is to sum to one again
    return any(reader.operator in {"ReduceSum", "ReduceMean"} for reader in readers)
