"""Inference whose outputs may be attention maps, beside those of the model itself."""

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
from msgspec.structs import replace

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.insight.requests import AttentionRequest
from seqlens.api.map_outputs import PREFIX, is_map, map_outputs
from seqlens.api.requests import (
    AnsweredOutput,
    InferRequest,
    InferResponse,
    NamedTensor,
    RequestedOutput,
    Rows,
)
from seqlens.api.served import Served
from seqlens.api.validation import check_outputs
from seqlens.attention.selection import AttentionSelection, SequenceMap, SiteMaps
from seqlens.errors import InvalidRequest, MapsTooLarge
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import Array, InputSequence, Tensors

_WEIGHT_BYTES = 4


async def infer(
    core: Core, served: Served, request: InferRequest, call: Call, *, streamed: bool = False
) -> InferResponse:
    """Answer whole tensors; an output named ``attention:SITE`` is that site's map.

    A map is FP32 [batch, heads, queries, keys], with zeros in the padding. Requests for one wait
    for the threads of insight, not for the lanes. Raises ``SeqLensError``.
    """
    anatomy = served.model.anatomy
    if not any(is_map(anatomy, output.name) for output in request.outputs):
        return await core.inference.infer(served, request, call, streamed=streamed)
    return await _look(core, served, request, call)


async def _look(core: Core, served: Served, request: InferRequest, call: Call) -> InferResponse:
    model, call.id, call.method = served.model, request.id, "attention"
    plain = tuple(one for one in request.outputs if not is_map(model.anatomy, one.name))
    names = check_outputs(model.anatomy, [one.name for one in plain]) if plain else ()
    sites = _check_maps(model, [one for one in request.outputs if one not in plain])
    sequences, rows = await core.inference.take_apart(model, request, call)
    call.sequences = len(sequences)
    looked = AttentionRequest(
        sequences=(),
        selection=AttentionSelection(sites=sites),
        with_outputs=bool(plain),
        deadline=request.urgency.deadline,
    )
    maps, outputs = await _drawn(core, served, sequences, looked, rows, call)
    tensors = {name: AnsweredOutput(tensor) for name, tensor in maps.items()}
    if plain:
        asked = replace(request, outputs=plain)
        answered = await core.inference.put_together(model, asked, outputs, rows, names)
        tensors |= {one.tensor.name: one for one in answered}
    ordered = (replace(tensors[one.name], place=one.place) for one in request.outputs)
    return InferResponse(model.name, model.version, request.id, tuple(ordered))


def _check_maps(model: LoadedModel, asked: Sequence[RequestedOutput]) -> tuple[str, ...]:
    """The sites whose maps are asked for; what is wrong with a site itself is told later."""
    known = [f"{PREFIX}{site.name}" for site in model.attention.sites]
    for name, count in Counter(one.name for one in asked).items():
        if known and name not in known:
            raise InvalidRequest(
                f"outputs.{name}",
                got="an attention site that the model does not have",
                expected=", ".join(map(repr, map_outputs(model))) or "none: none can be drawn",
            )
        if count > 1:
            raise InvalidRequest(f"outputs.{name}", got=f"{count} times", expected="once")
    for site in model.attention.sites:
        if not site.drawable and f"{PREFIX}{site.name}" in {one.name for one in asked}:
            raise InvalidRequest(
                f"outputs.{PREFIX}{site.name}",
                got="an attention site that cannot be drawn",
                expected=f"one that can; {site.proof.reason or site.note}",
            )
    for one in asked:
        if one.classes:
            raise InvalidRequest(
                f"outputs.{one.name}.classification", got=str(one.classes), expected="0, for a map"
            )
    return tuple(one.name.removeprefix(PREFIX) for one in asked)


async def _drawn(
    core: Core,
    served: Served,
    sequences: Sequence[InputSequence],
    request: AttentionRequest,
    rows: Rows,
    call: Call,
) -> tuple[dict[str, NamedTensor], Sequence[Tensors]]:
    """The maps as tensors by the outputs' names, and the plain outputs of each row."""
    _check_padded(core, served.model, request, rows)
    drawn: dict[str, list[SequenceMap]] = {}
    outputs: Sequence[Tensors] = ()
    items = core.insight.maps(served, tuple(sequences), request, call)
    async with aclosing(items):
        async for item in items:
            if isinstance(item, SiteMaps):
                drawn.setdefault(f"{PREFIX}{item.site.name}", []).extend(item.maps)
            else:
                outputs = item
    tensors = {name: NamedTensor(name, "FP32", _padded(maps, rows)) for name, maps in drawn.items()}
    return tensors, outputs


def _check_padded(core: Core, model: LoadedModel, request: AttentionRequest, rows: Rows) -> None:
    """Padding that the caller sent is answered with zeros, and they count as well."""
    sites = [site for site in model.attention.sites if site.name in request.selection.sites]
    heads = sum(site.site.heads or 1 for site in sites)
    size = _WEIGHT_BYTES * heads * len(rows.lengths) * (rows.time or 0) ** 2
    most = core.settings.insight.max_bytes
    if size > most:
        raise MapsTooLarge(
            "outputs",
            got=f"maps of {size} bytes, padding included",
            expected=f"at most {most} (insight.max_bytes): ask for fewer rows, shorter ones or "
            "one site at a time, or select with ExtractAttention",
        )


def _padded(maps: Sequence[SequenceMap], rows: Rows) -> Array:
    """Float32 [rows, heads, queries, keys], as long as the caller's time where that is meant."""
    ordered = sorted(maps, key=lambda one: one.sequence)
    shapes = [one.weights.shape for one in ordered]
    sizes = [_size([shape[axis] for shape in shapes], rows) for axis in (1, 2)]
    tensor = np.zeros((len(ordered), shapes[0][0], *sizes), np.float32)
    for row, one in zip(tensor, ordered, strict=True):
        row[:, : one.weights.shape[1], : one.weights.shape[2]] = one.weights
    return tensor


def _size(sizes: Sequence[int], rows: Rows) -> int:
    """What the caller's padding makes of an axis: one that is not as long as the rows stays."""
    follows = tuple(sizes) == rows.lengths and rows.time is not None
    return rows.time if follows and rows.time is not None else max(sizes)
