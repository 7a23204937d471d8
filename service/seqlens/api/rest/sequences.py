"""Our own routes: ``/v1/models`` and what is below it, the JSON face of ``seqlens.v1``."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens.api.batch import BatchAnswer, BatchRequest, answer_batch
from seqlens.api.core import Core
from seqlens.api.describe_sequences import describe_model
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import Urgency, deadline_in
from seqlens.api.rest.answers import JSON, bytes_answer, json_answer
from seqlens.api.rest.asked import AskedSequences, read_asked
from seqlens.api.rest.body import read_body
from seqlens.api.rest.json_text import read_json
from seqlens.api.rest.messages import plain
from seqlens.api.rest.ndjson import MEDIA_TYPES, answer_lines
from seqlens.api.rest.sequence_answers import JSON_COST, Json, to_json, write_error, write_outcome
from seqlens.errors import AnswerTooLarge, InvalidRequest, SeqLensError
from seqlens.repository.loading import LoadedModel
from seqlens.repository.states import ModelEntry
from seqlens.sequences import SequenceAnswer, array_bytes


class ProcessRequest(AskedSequences, forbid_unknown_fields=True):
    """Sequences of one model, each of its own length: ``sequences``, or a single ``sequence``."""

    outputs: list[str] | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    version: str = ""
    id: str = ""


_REQUEST = msgspec.json.Decoder(ProcessRequest)


def routes(core: Core) -> list[Route]:
    """Routes to the models of a server and their sequences."""
    endpoints = _Endpoints(core)
    return [
        Route("/v1/models", endpoints.list_models),
        Route("/v1/models/{model}", endpoints.describe),
        Route("/v1/models/{model}/process", endpoints.process, methods=["POST"]),
    ]


class _Endpoints:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def list_models(self, request: Request) -> Response:
        entries = self._core.models.repository.index()
        return json_answer({"models": [self._entry(entry) for entry in entries]})

    async def describe(self, request: Request) -> Response:
        name, version = request.path_params["model"], request.query_params.get("version", "")
        model = self._core.models.repository.get(name, version)
        described = describe_model(model, self._core.models.versions(model.name))
        return json_answer(plain(described))

    async def process(self, request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type in MEDIA_TYPES:
            return answer_lines(self._core, request)
        return await self._process_batch(request)

    async def _process_batch(self, request: Request) -> Response:
        """Answer many sequences in one message, as ``ProcessBatch`` does."""
        core, name = self._core, request.path_params["model"]
        with core.calls.watch("rest", "batch", lambda: "CANCELLED") as call:
            # Before anything is read; which version is asked for stands in the body.
            call.labels = core.models.find(name, "").model.metric_labels
            body = await read_body(request, core.settings.limits)
            asked = await off_loop_if_large(len(body), read_json, _REQUEST, body)
            most = core.settings.limits.max_message_sequences
            read = partial(read_asked, asked, len(body), most)
            batch = await answer_batch(core, call, _batch_request(name, asked), read)
            if asked.single:
                _raise_if_wrong(batch)
            with call.encoding():
                size = JSON_COST * _answer_bytes(batch)
                answer = await off_loop_if_large(size, _write_batch, asked.id, batch)
                most = core.settings.limits.max_message_bytes
                if len(answer) > most:
                    raise AnswerTooLarge(len(answer), most)
            return bytes_answer(request, answer, headers={"content-type": JSON})

    def _entry(self, entry: ModelEntry) -> Json:
        models = self._core.models
        ready = bool(entry.version) and models.ready(entry.name, entry.version)
        architecture = None
        if ready:
            anatomy = models.repository.get(entry.name, entry.version).anatomy
            architecture = anatomy.architecture.value
        return {
            "name": entry.name,
            "version": entry.version,
            "state": entry.state.value,
            "reason": entry.reason,
            "ready": ready,
            "architecture": architecture,
        }


def _batch_request(model: str, asked: ProcessRequest) -> BatchRequest:
    urgency = Urgency(deadline_in(asked.timeout_seconds), asked.priority)
    return BatchRequest(model, asked.version, asked.outputs or (), urgency)


def _raise_if_wrong(batch: BatchAnswer) -> None:
    """Of a single sequence the error is that of the request."""
    for outcome in batch.outcomes:
        if isinstance(outcome, SeqLensError):
            raise outcome


def _write_batch(request_id: str, batch: BatchAnswer) -> bytes:
    model = batch.model
    results = [_write_result(model, outcome, batch.outputs) for outcome in batch.outcomes]
    return to_json(
        {"model": model.name, "version": model.version, "id": request_id, "results": results}
    )


def _write_result(model: LoadedModel, outcome: Outcome, names: Sequence[str]) -> Json:
    try:
        return write_outcome(model, outcome, names)
    except InvalidRequest as error:
        return {"error": write_error(error)}


def _answer_bytes(batch: BatchAnswer) -> int:
    answers = (one for one in batch.outcomes if isinstance(one, SequenceAnswer))
    return sum(array_bytes(answer.outputs) for answer in answers)
