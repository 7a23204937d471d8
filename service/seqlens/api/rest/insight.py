"""Routes that look inside models: attention maps, influence and gates, the JSON face of gRPC's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.insight.plain_data import InsightData
from seqlens.api.insight.requests import AttentionHeader, InsideSequence
from seqlens.api.insight.splitting import split_gates, split_maps
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import SequenceRequest
from seqlens.api.rest.asked import read_asked
from seqlens.api.rest.body import read_body
from seqlens.api.rest.insight_bodies import AttentionBody, GatesBody, InfluenceBody, InsideBody
from seqlens.api.rest.insight_formats import answer_in, choose_format, too_large
from seqlens.api.rest.insight_json import (
    write_answers,
    write_gates,
    write_header,
    write_influence,
    write_layer,
    write_site,
)
from seqlens.api.rest.insight_lines import InsightLines, Line
from seqlens.api.rest.json_text import read_json
from seqlens.api.served import Served
from seqlens.attention.questions import GateLayer
from seqlens.attention.selection import SiteMaps
from seqlens.errors import SeqLensError
from seqlens.metrics.observer import Method
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import SequenceAnswer, array_bytes

ATTENTION_FORMATS = ("json", "ndjson", "npz", "bertviz", "html")
INFLUENCE_FORMATS = ("json", "npz", "html")
GATE_FORMATS = ("json", "ndjson", "npz", "html")

# Arrays of a line: its JSON is a few times as large, and is in memory as a whole.
LINE_BYTES = 4 << 20

Body = TypeVar("Body", bound=InsideBody)
Items = AsyncIterator[AttentionHeader | SiteMaps | list[Outcome]]
Read = Sequence[SequenceRequest | SeqLensError]

_ATTENTION = msgspec.json.Decoder(AttentionBody)
_INFLUENCE = msgspec.json.Decoder(InfluenceBody)
_GATES = msgspec.json.Decoder(GatesBody)


def routes(core: Core) -> list[Route]:
    """Routes to the inside of the models of a server."""
    endpoints = _Endpoints(core)
    return [
        Route(f"/v1/models/{{model}}/{name}", endpoint, methods=["POST"])
        for name, endpoint in (
            ("attention", endpoints.attention),
            ("influence", endpoints.influence),
            ("gates", endpoints.gates),
        )
    ]


class _Endpoints:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._most_bytes = core.settings.limits.max_message_bytes

    async def attention(self, request: Request) -> Response:
        async with AsyncExitStack() as held:
            call = self._watch(held, "attention", request)
            asked, sequences = await self._read(request, _ATTENTION, call)
            form = choose_format(request, asked.format, ATTENTION_FORMATS)
            served = self._served(request, asked, call)
            seen = self._core.insight.attention(served, asked.read(sequences), call)
            items = await held.enter_async_context(aclosing(seen))
            header = cast(AttentionHeader, await anext(items))
            _raise_single(asked, header.sequences)
            data = write_header(served.model, asked.id, header.sequences)
            sites = [write_site(one) for one in header.sites]
            size = header.predicted_bytes
            if form == "ndjson":
                told = {**data, "sites": sites, "predicted_bytes": size}
                lines = self._attention_lines(served.model, told, items)
                return InsightLines(lines, held.pop_all())
            if form != "html" and size > self._most_bytes:
                # No other form has fewer bytes than the weights themselves.
                raise too_large(size, self._most_bytes)
            data["attention"] = {"sites": sites, "predicted_bytes": size, "layers": []}
            await _fill(data, served.model, items)
            with call.encoding():
                return await answer_in(request, data, form, size, self._most_bytes)

    async def influence(self, request: Request) -> Response:
        async with AsyncExitStack() as held:
            call = self._watch(held, "influence", request)
            asked, sequences = await self._read(request, _INFLUENCE, call)
            form = choose_format(request, asked.format, INFLUENCE_FORMATS)
            served = self._served(request, asked, call)
            plain = asked.read(sequences)
            inside, answer = await self._core.insight.influence(served, plain, call)
            _raise_single(asked, inside)
            data = write_header(served.model, asked.id, inside)
            data["influence"] = write_influence(answer)
            size = 2 * sum(one.values.nbytes for one in answer.maps)
            with call.encoding():
                return await answer_in(request, data, form, size, self._most_bytes)

    async def gates(self, request: Request) -> Response:
        async with AsyncExitStack() as held:
            call = self._watch(held, "gates", request)
            asked, sequences = await self._read(request, _GATES, call)
            form = choose_format(request, asked.format, GATE_FORMATS)
            served = self._served(request, asked, call)
            plain = asked.read(sequences)
            seen = self._core.insight.gates(served, plain, call)
            items = await held.enter_async_context(aclosing(seen))
            inside = cast(tuple[InsideSequence, ...], await anext(items))
            _raise_single(asked, inside)
            data = write_header(served.model, asked.id, inside)
            quantiles = list(plain.question.quantiles)
            if form == "ndjson":
                lines = self._gate_lines({**data, "quantiles": quantiles}, items)
                return InsightLines(lines, held.pop_all())
            layers = [item async for item in items if isinstance(item, GateLayer)]
            data["gates"] = {
                "quantiles": quantiles,
                "layers": [write_gates(one) for one in layers],
            }
            with call.encoding():
                size = sum(map(_gates_bytes, layers))
                return await answer_in(request, data, form, size, self._most_bytes)

    async def _attention_lines(
        self,
        model: LoadedModel,
        header: dict[str, object],
        items: Items,
    ) -> AsyncIterator[Line]:
        yield {"header": header}, 0
        async for item in items:
            if isinstance(item, SiteMaps):
                for part in split_maps(item, LINE_BYTES):
                    yield {"layer": write_layer(part)}, _maps_bytes(part)
            elif isinstance(item, list):
                yield {"answers": write_answers(model, item)}, _answers_bytes(item)

    async def _gate_lines(
        self,
        header: dict[str, object],
        items: AsyncIterator[tuple[InsideSequence, ...] | GateLayer],
    ) -> AsyncIterator[Line]:
        yield {"header": header}, 0
        async for item in items:
            if isinstance(item, GateLayer):
                for part in split_gates(item, LINE_BYTES):
                    yield {"layer": write_gates(part)}, _gates_bytes(part)

    def _watch(self, held: AsyncExitStack, method: Method, request: Request) -> Call:
        call = held.enter_context(self._core.calls.watch("rest", method, lambda: "CANCELLED"))
        # Before anything is read; which version is asked for stands in the body.
        name = request.path_params["model"]
        call.labels = self._core.models.find(name, "").model.metric_labels
        return call

    async def _read(
        self, request: Request, decoder: "msgspec.json.Decoder[Body]", call: Call
    ) -> tuple[Body, Read]:
        limits = self._core.settings.limits
        body = await read_body(request, limits)
        with call.decoding():
            asked = await off_loop_if_large(len(body), read_json, decoder, body)
            call.id = asked.id
            return asked, await read_asked(asked, len(body), limits.max_message_sequences)

    def _served(self, request: Request, asked: InsideBody, call: Call) -> Served:
        served = self._core.models.find(request.path_params["model"], asked.version)
        call.labels = served.model.metric_labels
        return served


def _raise_single(asked: InsideBody, inside: Sequence[InsideSequence]) -> None:
    """Of a single sequence the error is that of the request."""
    for one in inside:
        if asked.single and one.error is not None:
            raise one.error


async def _fill(data: InsightData, model: LoadedModel, items: Items) -> None:
    """Put all maps into the data, and the plain outputs where they were asked for."""
    parts = []
    async for item in items:
        if isinstance(item, SiteMaps):
            parts.append(item)
        elif isinstance(item, list):
            data["answers"] = write_answers(model, item)
    data["attention"]["layers"] = [write_layer(one) for one in _whole(parts)]


def _whole(parts: Sequence[SiteMaps]) -> list[SiteMaps]:
    """Each site once, in order, with all of its maps."""
    maps: dict[str, list[SiteMaps]] = {}
    for part in parts:
        maps.setdefault(part.site.name, []).append(part)
    return [
        SiteMaps(found[0].site, tuple(one for part in found for one in part.maps))
        for found in maps.values()
    ]


def _maps_bytes(item: SiteMaps) -> int:
    return sum(one.weights.nbytes for one in item.maps)


def _answers_bytes(outcomes: Sequence[Outcome]) -> int:
    answers = (one for one in outcomes if isinstance(one, SequenceAnswer))
    return sum(array_bytes(answer.outputs) for answer in answers)


def _gates_bytes(layer: GateLayer) -> int:
    arrays = ((one.mean, one.quantiles, one.values) for one in layer.readings)
    return sum(array.nbytes for three in arrays for array in three if array is not None)
