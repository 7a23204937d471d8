"""Attention sites of a TorchScript graph.

A softmax is attention only when its result weighs something that depends on the input: by a
matrix product, or by a multiplication that is then summed. The softmax of a classifier, and one
that weighs a constant table, are none.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from seqlens.graphs.anatomy import AttentionKind, AttentionSite
from seqlens.graphs.torchscript_flow import Flow, Operation, Value, alternatives
from seqlens.graphs.torchscript_operators import (
    DATA_PRODUCTS,
    HIDING,
    PROJECTIONS,
    SHAPES_ONLY,
    SUMS,
    VIEWS,
)

FUSED = (
    "aten::scaled_dot_product_attention",
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
)
_SOFTMAX = ("aten::softmax", "aten::_softmax")
_BEFORE_SOFTMAX = VIEWS | HIDING | {"aten::mul", "aten::add", "aten::sub"}


@dataclass(frozen=True, slots=True)
class FoundSite:
    """A site, and the names of the weights that project into it."""

    site: AttentionSite
    projections: tuple[str, ...]  # dotted names of the weights of query, key and value


def attention_sites(flow: Flow) -> tuple[FoundSite, ...]:
    """All sites in order of execution, alternatives for one layer taken together."""
    attending = [o for o in flow.of_kind(*FUSED, *_SOFTMAX) if _attends(flow, o)]
    projections = {o.index: _projections(flow, o) for o in attending}

    def key(operation: Operation) -> Hashable:
        return projections[operation.index][:1] or operation.index

    groups = alternatives(attending, key)
    sites = [_site(flow, group, projections[group[0].index]) for group in groups]
    return tuple(_numbered(sites))


def _attends(flow: Flow, operation: Operation) -> bool:
    return operation.kind in FUSED or _weighing(flow, operation) is not None


def _weighing(flow: Flow, softmax: Operation) -> Operation | None:
    """The operation in which the softmax weighs values that depend on the input."""
    weights = {v.unique() for v in flow.reach(softmax.outputs[0], VIEWS | HIDING)}
    for operation in _users(flow, weights):
        others = [v for v in _operands(flow, operation) if v.unique() not in weights]
        if not any(flow.depends_on(v) for v in others):
            continue
        if operation.kind in DATA_PRODUCTS:
            return operation
        if operation.kind == "aten::mul" and _summed(flow, operation):
            return operation
    return None


def _users(flow: Flow, values: Iterable[int]) -> list[Operation]:
    found = {user.index: user for value in values for user in flow.users.get(value, ())}
    return [found[index] for index in sorted(found)]


def _operands(flow: Flow, operation: Operation) -> list[Value]:
    """Tensor operands; those of einsum lie in a list."""
    operands: list[Value] = []
    for value in operation.inputs:
        made = flow.producer.get(value.unique())
        listed = made is not None and made.kind == "prim::ListConstruct"
        operands += made.inputs if made is not None and listed else [value]
    return [v for v in operands if "Tensor" in str(v.type())]


def _summed(flow: Flow, multiplication: Operation) -> bool:
    products = {v.unique() for v in flow.reach(multiplication.outputs[0])}
    return any(user.kind in SUMS for user in _users(flow, products))


def _site(flow: Flow, group: list[Operation], projections: tuple[str, ...]) -> FoundSite:
    kinds = [_kind(flow, operation) for operation in group]
    heads = [flow.constant(o.argument("num_heads", "num_head")) for o in group]
    site = AttentionSite(
        name=_module_name(projections) or group[0].kind.removeprefix("aten::"),
        layer=0,
        kind=next((kind for kind in kinds if kind != "unknown"), "unknown"),
        operator=group[0].kind,
        heads=next((h for h in heads if h is not None), None),
    )
    return FoundSite(site, projections)


def _numbered(found: list[FoundSite]) -> Iterable[FoundSite]:
    """Give each site its layer number, and equal names an ordinal."""
    total, seen = Counter(f.site.name for f in found), Counter[str]()
    for layer, one in enumerate(found):
        name = one.site.name
        seen[name] += 1
        unique = f"{name}#{seen[name]}" if total[name] > 1 else name
        yield replace(one, site=replace(one.site, name=unique, layer=layer))


def _module_name(projections: tuple[str, ...]) -> str:
    """The attention's own module: ``block.attn`` of ``block.attn.query.weight``."""
    if not projections:
        return ""
    module, _, weight = projections[0].rpartition(".")
    return module if weight == "in_proj_weight" else module.rpartition(".")[0] or module


def _kind(flow: Flow, operation: Operation) -> AttentionKind:
    if operation.kind == "aten::_transformer_encoder_layer_fwd":
        return "self"
    if operation.kind in FUSED:
        return _query_kind(flow, operation.inputs[0], operation.inputs[1])
    scores = _scores(flow, operation)
    if scores is None:
        return "additive" if _after_tanh(flow, operation) else "pooling"
    return _query_kind(flow, *_operands(flow, scores)[-2:])


def _query_kind(flow: Flow, query: Value, key: Value) -> AttentionKind:
    if not flow.depends_on(query):
        return "pooling"  # a learned query
    sources = [_sources(flow, value) for value in (query, key)]
    if sources[0] & sources[1]:
        return "self"
    return "cross" if flow.depends_on(query) != flow.depends_on(key) else "unknown"


def _sources(flow: Flow, value: Value) -> set[int]:
    """The values that query or key are projected from."""
    through = VIEWS | PROJECTIONS | {"aten::mul", "aten::div"}
    return {v.unique() for v in flow.origins(value, through)}


def _scores(flow: Flow, softmax: Operation) -> Operation | None:
    """The product of two data-dependent operands that made the softmax's logits."""
    for value in flow.origins(softmax.inputs[0], _BEFORE_SOFTMAX):
        made = flow.producer.get(value.unique())
        if made is not None and made.kind in DATA_PRODUCTS:
            operands = _operands(flow, made)[-2:]
            if sum(bool(flow.depends_on(v)) for v in operands) == 2:
                return made
    return None


def _after_tanh(flow: Flow, softmax: Operation) -> bool:
    through = _BEFORE_SOFTMAX | PROJECTIONS
    origins = flow.origins(softmax.inputs[0], through)
    made = [flow.producer.get(value.unique()) for value in origins]
    return any(o is not None and o.kind == "aten::tanh" for o in made)


def _projections(flow: Flow, operation: Operation) -> tuple[str, ...]:
    """Names of the weights of query, key and value, as far as they have names."""
    packed = operation.argument("qkv_weight")
    if packed is not None:
        operands = [packed]
    elif operation.kind in FUSED:
        operands = operation.inputs[:3]
    else:
        scores, weighing = _scores(flow, operation), _weighing(flow, operation)
        operands = _operands(flow, scores)[-2:] if scores else operation.inputs[:1]
        operands += _operands(flow, weighing) if weighing else []
    names = [name for value in operands for name in _weight_names(flow, value)]
    return tuple(dict.fromkeys(names))


def _weight_names(flow: Flow, value: Value) -> list[str]:
    """Weights of the first projections behind a value, or the value's own name."""
    own = flow.path(value)
    if own is not None:
        return [own]
    names: list[str] = []
    for origin in flow.origins(value, _BEFORE_SOFTMAX):
        made = flow.producer.get(origin.unique())
        if made is None or made.kind in SHAPES_ONLY or made.kind not in PROJECTIONS:
            continue
        paths = [flow.path(o) for v in made.inputs for o in flow.origins(v)]
        names += [p for p in paths if p is not None and not p.endswith("bias")]
    return names
