"""Parameters of a TorchScript module: how many in which part, and tables by their sizes."""

from collections import Counter

import torch

from seqlens.graphs.anatomy import ParameterGroup
from seqlens.graphs.torchscript_attention import FUSED, FoundSite
from seqlens.graphs.torchscript_flow import Flow, Module, Operation
from seqlens.graphs.torchscript_operators import (
    CONVOLUTIONS,
    EMBEDDINGS,
    LOOKUPS,
    NORMALIZATIONS,
    PROJECTIONS,
)
from seqlens.graphs.torchscript_recurrence import CELLS, LAYERS

_BY_OPERATOR = {
    **dict.fromkeys((*LAYERS, *CELLS), "recurrent"),
    **dict.fromkeys(EMBEDDINGS, "embedding"),
    **dict.fromkeys(PROJECTIONS, "dense"),
    **dict.fromkeys(NORMALIZATIONS, "normalization"),
    **dict.fromkeys(CONVOLUTIONS, "convolution"),
    **dict.fromkeys(FUSED, "attention"),
}
_BY_CLASS = (
    ("attention", ("attention", "attn")),
    ("recurrent", ("lstm", "gru", "rnn")),
    ("embedding", ("embedding",)),
    ("normalization", ("norm",)),
    ("convolution", ("conv",)),
    ("dense", ("linear",)),
)


def parameter_groups(
    module: Module, flow: Flow, sites: tuple[FoundSite, ...]
) -> tuple[ParameterGroup, ...]:
    """Parameters by part, largest first; weights shared by two names count once."""
    projecting = {_owner(name) for found in sites for name in found.projections}
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    for name, parameter in module.named_parameters():
        if parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            part = "attention" if _owner(name) in projecting else _part(module, name)
            counts[part] += parameter.numel()
    counts.update(_constants(flow, seen))
    return tuple(ParameterGroup(part, count) for part, count in counts.most_common() if count)


def table_sizes(flow: Flow, vocabularies: set[int]) -> tuple[int, ...]:
    """First sizes of the constant tables that are looked up by position.

    They bound the length: position embeddings, sinusoids, causal masks. ``vocabularies`` holds
    the numbers of the operations whose ids come from an input; these index tokens.
    """
    sizes: set[int] = set()
    for operation in flow.of_kind(*LOOKUPS):
        if operation.index not in vocabularies:
            for origin in flow.origins(operation.inputs[0], frozenset({"aten::to"})):
                for tensor in flow.tensors(origin):
                    sizes.update([s for s in tensor.shape if s > 1][:1])
    return tuple(sorted(sizes))


def precision(module: Module, flow: Flow) -> str:
    """Type of most weights: ``fp32``, ``fp16``, ``bf16``, ``fp64`` or ``int8``."""
    counts: Counter[torch.dtype] = Counter()
    for parameter in (*module.parameters(), *_constant_tensors(flow).values()):
        counts[parameter.dtype] += parameter.numel()
    floats = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.float64: "fp64",
    }
    quantized = any("quantized" in o.kind for o in flow.operations)
    most = next((t for t, _ in counts.most_common() if t in floats), torch.float32)
    return "int8" if quantized else floats[most]


def _part(module: Module, name: str) -> str:
    """By the classes on the way to the parameter; the outermost attention wins."""
    classes: list[str] = []
    for attribute in name.split(".")[:-1]:
        module = getattr(module, attribute)
        classes.append(f"{attribute} {getattr(module, 'original_name', '')}".lower())
    if any(word in text for text in classes for word in _BY_CLASS[0][1]):
        return "attention"
    own = classes[-1].partition(" ")[2] if classes else ""
    return next((part for part, words in _BY_CLASS if any(w in own for w in words)), "other")


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or name


def _constants(flow: Flow, seen: set[int]) -> Counter[str]:
    """Weights that freezing has turned into constants, by the operator that takes them."""
    counts: Counter[str] = Counter()
    for unique, tensor in _constant_tensors(flow).items():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            parts = [_operator_part(flow, user) for user in flow.users.get(unique, ())]
            counts[next((p for p in parts if p), "other")] += tensor.numel()
    return counts


def _operator_part(flow: Flow, user: Operation) -> str | None:
    if user.kind == "prim::ListConstruct":
        users = flow.users.get(user.outputs[0].unique(), ())
        return next((part for u in users if (part := _BY_OPERATOR.get(u.kind))), None)
    return _BY_OPERATOR.get(user.kind)


def _constant_tensors(flow: Flow) -> dict[int, torch.Tensor]:
    """Constant tensors of at least one dimension, by their value's unique number."""
    found: dict[int, torch.Tensor] = {}
    for operation in flow.of_kind("prim::Constant"):
        tensor = operation.outputs[0].toIValue()
        if isinstance(tensor, torch.Tensor) and tensor.dim() > 0:
            found[operation.outputs[0].unique()] = tensor
    return found
