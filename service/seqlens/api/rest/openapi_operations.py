"""Every operation of REST, as the OpenAPI document tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from seqlens.api.rest.answers import BINARY, JSON
from seqlens.api.rest.insight_formats import HTML, NPZ
from seqlens.api.rest.model_routes import MODEL_PATHS
from seqlens.api.rest.ndjson import MEDIA_TYPE
from seqlens.api.rest.openapi_schemas import Schema, reference
from seqlens.api.rest.tensors import HEADER

OURS, OIP, SERVER = "Sequences", "Open Inference Protocol", "Server"

# What can go wrong with every body, and with every request to a model.
_BODY_ERRORS = (400, 408, 413, 415)
_MODEL_ERRORS = (404, 503)
_WORK_ERRORS = (*_BODY_ERRORS, *_MODEL_ERRORS, 429, 500, 501, 504)
_FREE: Schema = {"type": "object"}
_FLAG: Schema = {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``answer`` and ``body`` give a schema for each media type."""

    method: str
    path: str
    tag: str
    summary: str
    description: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    answer: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[int] = ()


def operations() -> list[Operation]:
    """All of them, in the order in which they are shown."""
    return [*_sequences(), *_insight(), *_models(), *_inference(), *_repository(), *_settings(),
            *_memory(), *_server()]  # fmt: skip


def json_of(schema: Schema, example: Any = None) -> dict[str, Any]:
    """JSON of a schema as the content of a body or an answer."""
    content = {"schema": schema}
    return {JSON: content if example is None else {**content, "example": example}}


def _of_models(operation: Operation) -> list[Operation]:
    """An operation of a model, and the same of one of its versions."""
    return [replace(operation, path=path + operation.path) for path in MODEL_PATHS]


def _sequences() -> list[Operation]:
    return [
        Operation(
            "GET", "/v1/models", OURS, "List the models",
            answer=json_of(reference("ModelList")),
        ),
        Operation(
            "GET", "/v1/models/{model}", OURS, "Describe a model",
            "What was found in it, how it is served, and the proof that batching changes nothing.",
            query={"version": {"type": "string"}},
            answer=json_of(reference("DescribeModelResponse")),
            errors=_MODEL_ERRORS,
        ),
        _process(),
    ]  # fmt: skip


def _process() -> Operation:
    number = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    lines = {"schema": {"type": "string"}, "example": '[12, 7]\n{"id": "b", "sequence": [3]}\n'}
    sequences = {"sequences": [[12, 7, 33], "the kitten", {"tokens": [3, 1]}], "id": "example"}
    return Operation(
        "POST",
        "/v1/models/{model}/process",
        OURS,
        "Process sequences of any lengths",
        "Each sequence is a text for the model's tokenizer, a nested list for its only input, or "
        "an object of inputs. Each gets its answer or its error; of a single `sequence` the error "
        f"is that of the request.\n\nWith `Content-Type: {MEDIA_TYPE}` each line is a sequence, or "
        '`{"id": ..., "sequence": ...}`, and is answered by a line as soon as it is ready, while '
        "the request is still being sent. A line without an id is named by its number, from 1. "
        "A line that cannot be read has its error; one without `id` says why the stream ends. "
        "The query is for lines only: JSON has the same options in the body.",
        query={
            "version": {"type": "string"},
            "outputs": {"type": "string", "description": "names, separated by commas"},
            "priority": number,
            "window": number,
            "timeout_seconds": {"type": "number", "exclusiveMinimum": 0},
            "keep_order": _FLAG,
        },
        body={
            **json_of(reference("ProcessRequest"), sequences),
            MEDIA_TYPE: lines,
        },
        answer={
            **json_of(reference("ProcessAnswer")),
            MEDIA_TYPE: {"schema": {"type": "string"}},
        },
        errors=_WORK_ERRORS,
    )


def _insight() -> list[Operation]:
    sequence = {"sequence": [12, 7, 33], "id": "example"}
    page = {HTML: {"schema": {"type": "string"}}}
    binary = {NPZ: {"schema": {"type": "string", "format": "binary"}}}
    lines = {MEDIA_TYPE: {"schema": {"type": "string"}}}
    errors = (*_WORK_ERRORS, int(HTTPStatus.UNPROCESSABLE_ENTITY))
    return [
        Operation(
            "POST", "/v1/models/{model}/attention", OURS, "Draw attention maps",
            "Attention weights as the served model computes them, without padding, each site with "
            "its proof. `format` in the body, or `Accept`, chooses how: JSON, lines that come as "
            "they are drawn, arrays for numpy, a page that needs nothing else, and by `format` "
            "alone what BertViz takes.",
            body=json_of(reference("AttentionBody"), {**sequence, "selection": {"layers": [0]}}),
            answer={
                **json_of({"anyOf": [reference("AttentionAnswer"), reference("BertvizAnswer")]}),
                **lines, **binary, **page,
            },
            errors=errors,
        ),
        Operation(
            "POST", "/v1/models/{model}/influence", OURS, "Measure influence",
            "How much an answer depends on each position, with one meaning for every architecture: "
            "by occlusion, and by the Jacobian, which is the gradient path. What is below the "
            "floor is not known.",
            body=json_of(reference("InfluenceBody"),
                         {**sequence, "target": {"predicted_class": True}}),
            answer={**json_of(reference("InfluenceAnswer")), **binary, **page},
            errors=errors,
        ),
        Operation(
            "POST", "/v1/models/{model}/gates", OURS, "Read gates",
            "Gates of LSTM and GRU layers at every step: mean and quantiles over the units, and "
            "all of them where `full` is asked for.",
            body=json_of(reference("GatesBody"), sequence),
            answer={**json_of(reference("GatesAnswer")), **lines, **binary, **page},
            errors=errors,
        ),
    ]  # fmt: skip


def _models() -> list[Operation]:
    tells: list[tuple[str, str, Schema]] = [
        ("", "Metadata of a model", reference("ModelMetadataResponse")),
        ("/config", "Configuration of a model", reference("ModelConfig")),
        ("/stats", "Statistics of a model", reference("ModelStatisticsResponse")),
        ("/ready", "Whether a model takes requests", _object(name={"type": "string"}, ready=_FLAG)),
    ]
    found = [
        Operation("GET", "/v2/models", OIP, "Names of the models that take requests",
                  answer=json_of(_object(models=_list({"type": "string"})))),
        Operation("GET", "/v2/models/stats", OIP, "Statistics of all models",
                  answer=json_of(reference("ModelStatisticsResponse"))),
    ]  # fmt: skip
    for path, summary, schema in tells:
        operation = Operation(
            "GET", path, OIP, summary, answer=json_of(schema), errors=_MODEL_ERRORS
        )
        found += _of_models(operation)
    return found


def _inference() -> list[Operation]:
    example = {"inputs": [{"name": "tokens", "datatype": "INT64", "shape": [1, 3],
                           "data": [12, 7, 33]}]}  # fmt: skip
    raw = {"schema": {"type": "string", "format": "binary"}}
    return _of_models(
        Operation(
            "POST",
            "/infer",
            OIP,
            "Infer",
            f"With the binary tensor data extension the bytes of tensors follow the JSON, of which "
            f"`{HEADER}` then gives the length, in both directions.",
            headers={HEADER: {"type": "integer", "minimum": 0}},
            body={**json_of(reference("InferRequest"), example), BINARY: raw},
            answer={**json_of(reference("InferAnswer")), BINARY: raw},
            errors=_WORK_ERRORS,
        )
    )


def _repository() -> list[Operation]:
    parameters = json_of(_object(required=(), parameters=_FREE), {})
    found = []
    for path in ("/v2/repository", "/v2/repository/{repository}"):
        index = json_of(_object(required=(), ready=_FLAG), {"ready": False})
        found += [
            Operation("POST", f"{path}/index", OIP, "List the repository",
                      body=index, body_required=False,
                      answer=json_of(_list(reference("ModelIndex"))), errors=_BODY_ERRORS),
            Operation("POST", f"{path}/models/{{model}}/load", OIP, "Load a model",
                      body=parameters, body_required=False,
                      errors=(*_BODY_ERRORS, *_MODEL_ERRORS, 403, 500)),
            Operation("POST", f"{path}/models/{{model}}/unload", OIP, "Unload a model",
                      body=parameters, body_required=False,
                      errors=(*_BODY_ERRORS, *_MODEL_ERRORS, 403)),
        ]  # fmt: skip
    return found


def _settings() -> list[Operation]:
    settings = (
        ("/v2/trace/setting", "trace settings of all models", ()),
        ("/v2/models/{model}/trace/setting", "trace settings of a model", _MODEL_ERRORS),
        ("/v2/logging", "log settings", ()),
    )
    found = []
    for path, what, errors in settings:
        found += [
            Operation("GET", path, OIP, f"The {what}", answer=json_of(_FREE), errors=errors),
            Operation("POST", path, OIP, f"Change the {what}", body=json_of(_FREE),
                      answer=json_of(_FREE), errors=(*_BODY_ERRORS, *errors, 403)),
        ]  # fmt: skip
    return found


def _memory() -> list[Operation]:
    count: Schema = {"type": "integer", "minimum": 0}
    region = _object(required=("key", "byte_size"), key={"type": "string"}, byte_size=count,
                     offset=count)  # fmt: skip
    regions = json_of(_list(reference("SystemSharedMemoryStatusResponse.RegionStatus")))
    system = _regions("system", json_of(region), regions, (400, 404, 409, 403))
    # Nothing of a body is looked at for what is not offered.
    return [*system, *_regions("cuda", {}, {}, (501,))]


def _regions(
    kind: str, region: Mapping[str, Any], regions: Mapping[str, Any], errors: Sequence[int]
) -> list[Operation]:
    path = f"/v2/{kind}sharedmemory"
    one = f"{path}/region/{{region}}"
    what = f"of {kind} shared memory"
    register_errors = (*errors, *_BODY_ERRORS) if region else errors
    return [
        Operation("GET", f"{path}/status", OIP, f"Regions {what}", answer=regions,
                  errors=errors),
        Operation("GET", f"{one}/status", OIP, f"A region {what}", answer=regions,
                  errors=errors),
        Operation("POST", f"{one}/register", OIP, f"Register a region {what}", body=region,
                  errors=register_errors),
        Operation("POST", f"{path}/unregister", OIP, f"Forget all regions {what}", errors=errors),
        Operation("POST", f"{one}/unregister", OIP, f"Forget a region {what}", errors=errors),
    ]  # fmt: skip


def _server() -> list[Operation]:
    health = _object(live=_FLAG, ready=_FLAG)
    page = {"text/html": {"schema": {"type": "string"}}}
    parts = ("text/javascript", "text/css", "image/svg+xml")
    part: dict[str, Any] = {media_type: {"schema": {}} for media_type in parts}
    return [
        Operation("GET", "/v2", OIP, "Metadata of the server",
                  answer=json_of(reference("ServerMetadataResponse"))),
        Operation("GET", "/v2/health/live", OIP, "Whether the server is alive",
                  answer=json_of(health)),
        Operation("GET", "/v2/health/ready", OIP, "Whether the server is ready",
                  answer=json_of(health), errors=(503,)),
        Operation("GET", "/openapi.json", SERVER, "This document", answer=json_of(_FREE)),
        Operation("GET", "/docs", SERVER, "This page", answer=page),
        Operation("GET", "/docs/{file}", SERVER, "A part of this page", answer=part,
                  errors=(int(HTTPStatus.NOT_FOUND),)),
    ]  # fmt: skip


def _object(required: Sequence[str] | None = None, **properties: Schema) -> Schema:
    """An object, all of whose properties are required unless said otherwise."""
    needed = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": needed}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}
