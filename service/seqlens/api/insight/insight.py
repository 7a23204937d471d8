"""The one way from a request that looks inside a model to what is seen, free of any protocol."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from seqlens.api.calls import Call, Calls
from seqlens.api.inference import Inference
from seqlens.api.insight.bounds import bounded_cost, check_bytes, check_gate_bytes
from seqlens.api.insight.opened import OpenedModels
from seqlens.api.insight.reading import ReadSequences, read_asked, without
from seqlens.api.insight.requests import (
    Asked,
    AttentionHeader,
    AttentionRequest,
    GateRequest,
    InfluenceRequest,
    InsideSequence,
)
from seqlens.api.insight.steps import Left, each, led_by
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import Urgency
from seqlens.api.served import Served
from seqlens.attention.gates import read_gates
from seqlens.attention.influence import measure
from seqlens.attention.maps import check_sequence, choose_sites, draw
from seqlens.attention.questions import Cost, GateLayer, InfluenceAnswer
from seqlens.attention.selection import SiteMaps
from seqlens.attention.sites import Site
from seqlens.errors import NotInModel
from seqlens.metrics.observer import Observer
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.insight_lanes import InsightLanes
from seqlens.scheduling.strategy import Strategy
from seqlens.sequences import Array, InputSequence, SequenceAnswer, Tensors
from seqlens.settings import InsightSettings


class Insight:
    """Looks inside served models, in threads of its own. Used on the event loop only.

    Every method checks all that it can before any work, and raises ``InvalidRequest`` for what
    the model's sequences do not have, ``MapsTooLarge`` for too much, ``NotInModel`` for what the
    model does not have, ``Overloaded`` where too many wait, and what else requests may meet.
    A caller that leaves stops what is not done yet: iterators are to be closed.
    """

    def __init__(
        self,
        settings: InsightSettings,
        inference: Inference,
        calls: Calls,
        lanes: InsightLanes,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._inference, self._calls, self._observer = inference, calls, observer
        self._lanes = lanes
        self._opened = OpenedModels(settings.idle_seconds)

    def add(self, model: LoadedModel) -> None:
        """From now on requests may look inside this model."""
        self._opened.add(model)

    async def remove(self, model: LoadedModel, *, drain_seconds: float = 0.0) -> None:
        """Look inside this model no more; only then may its engine be closed.

        Requests that do have ``drain_seconds`` to end, then they fail with ``ModelNotReady``.
        """
        await self._opened.close(model, drain_seconds)

    async def attention(
        self, served: Served, request: AttentionRequest, call: Call
    ) -> AsyncGenerator[AttentionHeader | SiteMaps | list[Outcome], None]:
        """Attention weights: a header, the maps of each site, plain outputs if asked for.

        A site may have several ``SiteMaps``. The outcomes are those of all sequences asked about,
        in order, errors included.
        """
        model = served.model
        sites = self._choose(model, request)
        has = partial(
            check_sequence,
            sites,
            selection=request.selection,
            share_positions=request.share_positions or None,
        )
        read = await read_asked(self._inference, self._calls, model, request.sequences, call, has)
        size = check_bytes(self._settings, sites, read.good, request.selection) if read.good else 0
        header = AttentionHeader(read.inside, sites, size)
        if not read.good:
            yield header
            return
        drawn = self._draw(served, sites, read.good, request, call)
        async with aclosing(led_by(header, drawn)) as items:
            async for item in items:
                if isinstance(item, list):
                    yield _outcomes(item, read)
                else:
                    yield _replaced(item, read) if isinstance(item, SiteMaps) else item

    async def maps(
        self,
        served: Served,
        sequences: tuple[InputSequence, ...],
        request: AttentionRequest,
        call: Call,
    ) -> AsyncGenerator[SiteMaps | list[dict[str, Array]], None]:
        """The same of sequences that are checked already; those of the request are not looked at.

        Gives the maps of each site, then the plain outputs of each sequence if asked for.
        """
        sites = self._choose(served.model, request)
        check_bytes(self._settings, sites, sequences, request.selection)
        async with aclosing(self._draw(served, sites, sequences, request, call)) as items:
            async for item in items:
                yield item

    async def influence(
        self, served: Served, request: InfluenceRequest, call: Call
    ) -> tuple[tuple[InsideSequence, ...], InfluenceAnswer]:
        """How much the target depends on each position."""
        model, question = served.model, request.question
        _refuse_whole(model)
        read = await self._read(model, request.sequences, call)
        if not read.good:
            nothing = Cost(0, 0.0)
            return read.inside, InfluenceAnswer(question.target, (), (), nothing, nothing, {})
        deadline = _deadline(model, request.deadline)
        with self._lanes.place() as place:
            tapped = await self._opened.open(model, place, deadline)
            together = model.decision.strategy.shares_batches
            cost = await place.run(
                lambda _: bounded_cost(
                    self._settings,
                    tapped,
                    question,
                    read.lengths,
                    model.cost.seconds,
                    together=together,
                    message_bytes=request.message_bytes,
                ),
                deadline=deadline,
            )
            answer = await place.run(
                lambda cancelled: measure(
                    tapped,
                    read.good,
                    question,
                    together=together,
                    cost=cost,
                    cancelled=cancelled,
                ),
                deadline=deadline,
            )
        maps = tuple(replace(one, sequence=read.places[one.sequence]) for one in answer.maps)
        if answer.errors:
            read = without(read, answer.errors, self._calls, call)
        return read.inside, replace(answer, maps=maps)

    async def gates(
        self, served: Served, request: GateRequest, call: Call
    ) -> AsyncGenerator[tuple[InsideSequence, ...] | GateLayer, None]:
        """Gates of recurrent layers: what is told of the sequences, then each layer."""
        model, question = served.model, request.question
        _refuse_whole(model)
        read = await self._read(model, request.sequences, call)
        if not read.good:
            yield read.inside
            return
        check_gate_bytes(self._settings, model.anatomy, question, read.lengths)
        deadline = _deadline(model, request.deadline)
        with self._lanes.place() as place:
            tapped = await self._opened.open(model, place, deadline)
            together = model.decision.strategy.shares_batches
            left = Left()
            reading = read_gates(tapped, read.good, question, together=together, cancelled=left)
            layers = each(place, reading, deadline, left)
            async with aclosing(led_by(read.inside, layers)) as items:
                async for item in items:
                    yield _placed(item, read) if isinstance(item, GateLayer) else item

    def _choose(self, model: LoadedModel, request: AttentionRequest) -> tuple[Site, ...]:
        _refuse_whole(model)
        return choose_sites(model.attention, request.selection, model.anatomy)

    async def _draw(
        self,
        served: Served,
        sites: tuple[Site, ...],
        sequences: tuple[InputSequence, ...],
        request: AttentionRequest,
        call: Call,
    ) -> AsyncGenerator[SiteMaps | list[dict[str, Array]], None]:
        model, deadline = served.model, _deadline(served.model, request.deadline)
        with self._lanes.place() as place:
            tapped = await self._opened.open(model, place, deadline)
            left = Left()
            drawing = draw(
                tapped,
                sites,
                sequences,
                request.selection,
                share_positions=request.share_positions or None,
                with_measures=request.with_measures,
                with_outputs=request.with_outputs,
                together=_padded_together(model, [one.length for one in sequences]),
                cancelled=left,
            )
            async for item in each(place, drawing, deadline, left):
                if isinstance(item, SiteMaps):
                    self._count(call, item)
                yield item

    async def _read(self, model: LoadedModel, asked: Asked, call: Call) -> ReadSequences:
        return await read_asked(self._inference, self._calls, model, asked, call)

    def _count(self, call: Call, maps: SiteMaps) -> None:
        size = sum(one.weights.nbytes for one in maps.maps)
        self._observer.maps_drawn(call.labels, size=size)


def _refuse_whole(model: LoadedModel) -> None:
    if model.decision.strategy is Strategy.WHOLE:
        raise NotInModel(f"model {model.name!r} takes no sequences: {model.decision.reason}")


def _deadline(model: LoadedModel, deadline: float | None) -> float | None:
    return Urgency(deadline).in_force(model.scheduler).deadline


def _padded_together(model: LoadedModel, lengths: Sequence[int]) -> bool:
    """Whether sequences of these lengths may share padded runs, as plain ones would."""
    decision = model.decision
    if decision.strategy is not Strategy.BY_LENGTH:
        return False
    return decision.longest_shared is None or max(lengths) <= decision.longest_shared


def _placed(layer: GateLayer, read: ReadSequences) -> GateLayer:
    """The gates with the places that their sequences have in the request."""
    readings = (replace(one, sequence=read.places[one.sequence]) for one in layer.readings)
    return replace(layer, readings=tuple(readings))


def _replaced(item: SiteMaps, read: ReadSequences) -> SiteMaps:
    """The maps with the places that their sequences have in the request."""
    maps = tuple(replace(one, sequence=read.places[one.sequence]) for one in item.maps)
    return replace(item, maps=maps)


def _outcomes(outputs: Sequence[Tensors], read: ReadSequences) -> list[Outcome]:
    """Answers and errors of all sequences asked about."""
    answers = iter(outputs)
    outcomes: list[Outcome] = []
    for one in read.inside:
        if one.error is not None:
            outcomes.append(one.error)
            continue
        outcomes.append(
            SequenceAnswer(
                outputs=next(answers),
                length=one.length,
                padded_length=one.length,
                batch_size=1,
                queue_seconds=0.0,
                compute_seconds=0.0,
            )
        )
    return outcomes
