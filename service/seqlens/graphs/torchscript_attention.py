"""Attention sites of a TorchScript graph.

A softmax is attention only when its result weighs something that depends on the input: by a
matrix product, or by a multiplication that is then summed. The softmax of a classifier, and one
that weighs a constant table, are none.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from seqlens.graphs.anatomy import AttentionKind, AttentionSite
from seqlens.graphs.torchscript_flow import Flow, Operation, Value, alternatives
from seqlens.graphs.torchscript_operators import (
    DATA_PRODUCTS,
    HIDING,
    NORMALIZATIONS,
    PROJECTIONS,
    SHAPES_ONLY,
    VIEWS,
)
from seqlens.graphs.torchscript_softmax import Softmax, operands, softmaxes, weighing

FUSED = (
    "aten::scaled_dot_product_attention",
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
)
_BEFORE_SOFTMAX = (
    VIEWS
    | HIDING
    | {
        f"aten::{name}{in_place}"
        for name in ("add", "sub", "mul", "div", "tanh", "clamp", "clamp_min", "clamp_max")
        for in_place in ("", "_")
    }
)
# Queries and keys are rotated by their places, and normalized.
_AFTER_PROJECTION = (
    VIEWS
    | NORMALIZATIONS
    | {f"aten::{name}" for name in ("mul", "div", "add", "sub", "neg", "cat", "stack")}
)


@dataclass(frozen=True, slots=True)
class FoundSite:
    """A site, and the names of the weights that project into it."""

    site: AttentionSite
    projections: tuple[str, ...]  # dotted names of the weights of query, key and value


@dataclass(frozen=True, slots=True)
class _Attending:
    """An operation that attends: a fused kernel, or a softmax with what it weighs in."""

    operation: Operation
    softmax: Softmax | None = None
    weighing: Operation | None = None


def attention_sites(flow: Flow) -> tuple[FoundSite, ...]:
    """All sites in order of execution, alternatives for one layer taken together."""
    attending = {one.operation.index: one for one in _attending(flow)}
    projections = {index: _projections(flow, one) for index, one in attending.items()}

    def key(operation: Operation) -> Hashable:
        return projections[operation.index][:1] or operation.index

    ordered = [attending[index].operation for index in sorted(attending)]
    groups = [[attending[o.index] for o in group] for group in alternatives(ordered, key)]
    sites = [_site(flow, group, projections[group[0].operation.index]) for group in groups]
    return tuple(_numbered(sites))


def _attending(flow: Flow) -> Iterator[_Attending]:
    yield from (_Attending(operation) for operation in flow.of_kind(*FUSED))
    for softmax in softmaxes(flow):
        if (used := weighing(flow, softmax)) is not None:
            yield _Attending(softmax.operation, softmax, used)


def _site(flow: Flow, group: list[_Attending], projections: tuple[str, ...]) -> FoundSite:
    first = group[0].operation
    kinds = [_kind(flow, one) for one in group]
    if first.argument("qkv_weight") is not None:
        kinds = kinds[:1]  # others read query and key behind the branches that told them apart
    heads = [flow.constant(one.operation.argument("num_heads", "num_head")) for one in group]
    site = AttentionSite(
        name=_module_name(projections) or _kernel_name(group[0]),
        layer=0,
        kind=next((kind for kind in kinds if kind != "unknown"), "unknown"),
        operator=first.kind.removesuffix("_"),  # of forms that work in place
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


def _kernel_name(one: _Attending) -> str:
    return "softmax" if one.softmax is not None else one.operation.kind.removeprefix("aten::")


def _kind(flow: Flow, one: _Attending) -> AttentionKind:
    operation = one.operation
    if operation.kind == "aten::_transformer_encoder_layer_fwd":
        return "self"
    if one.softmax is None:
        return _query_kind(flow, operation.inputs[0], operation.inputs[1])
    scores = _scores(flow, one.softmax)
    if scores is None:
        return "additive" if _after_tanh(flow, one.softmax) else "pooling"
    return _query_kind(flow, *operands(flow, scores)[-2:])


def _query_kind(flow: Flow, query: Value, key: Value) -> AttentionKind:
    if not flow.depends_on(query):
        return "pooling"  # a learned query
    sources = [_sources(flow, value) for value in (query, key)]
    if sources[0] & sources[1]:
        return "self"
    return "cross" if flow.depends_on(query) != flow.depends_on(key) else "unknown"


def _sources(flow: Flow, value: Value) -> set[int]:
    """The values that query or key are projected from, or that they are."""
    projected = VIEWS | PROJECTIONS | {"aten::mul", "aten::div"}
    found = {v.unique() for v in flow.origins(value, projected)}
    for origin in flow.origins(value, _AFTER_PROJECTION):
        made = flow.producer.get(origin.unique())
        if made is not None and made.kind in PROJECTIONS:
            data = [v for v in made.inputs if flow.depends_on(v)]
            found |= {v.unique() for one in data for v in flow.origins(one, projected)}
    return found


def _scores(flow: Flow, softmax: Softmax) -> Operation | None:
    """The product of two data-dependent operands that made the softmax's logits."""
    for value in flow.origins(softmax.logits, _BEFORE_SOFTMAX):
        made = flow.producer.get(value.unique())
        if made is not None and made.kind in DATA_PRODUCTS:
            factors = operands(flow, made)[-2:]
            if sum(bool(flow.depends_on(v)) for v in factors) == 2:
                return made
    return None


def _after_tanh(flow: Flow, softmax: Softmax) -> bool:
    through = (_BEFORE_SOFTMAX | PROJECTIONS) - {"aten::tanh", "aten::tanh_"}
    origins = flow.origins(softmax.logits, through)
    made = [flow.producer.get(value.unique()) for value in origins]
    return any(o is not None and o.kind in ("aten::tanh", "aten::tanh_") for o in made)


def _projections(flow: Flow, one: _Attending) -> tuple[str, ...]:
    """Names of the weights of query, key and value, as far as they have names."""
    packed = one.operation.argument("qkv_weight")
    if packed is not None:
        values = [packed]
    elif one.softmax is None or one.weighing is None:
        values = one.operation.inputs[:3]
    else:
        scores = _scores(flow, one.softmax)
        values = operands(flow, scores)[-2:] if scores else [one.softmax.logits]
        values += operands(flow, one.weighing)
    names = [name for value in values for name in _weight_names(flow, value)]
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
        # What a learned query is projected from has a name, too, but is no projection.
        read = made.inputs[1:] if made.kind == "aten::linear" else made.inputs
        paths = [flow.path(o) for v in read for o in flow.origins(v)]
        names += [p for p in paths if p is not None and not p.endswith("bias")]
    return names
