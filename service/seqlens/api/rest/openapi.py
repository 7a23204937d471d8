"""The OpenAPI document of all of REST, and the page that shows it."""

import re
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from seqlens import __version__
from seqlens.api.rest.answers import JSON, bytes_answer
from seqlens.api.rest.openapi_operations import OIP, OURS, SERVER, Operation, json_of, operations
from seqlens.api.rest.openapi_schemas import reference, schemas
from seqlens.api.rest.security import is_open
from seqlens.api.rest.sequence_answers import to_json

Json = dict[str, Any]

# The page can ask nothing of any other server, whatever is in its scripts.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
_PARAMETER = re.compile(r"{(\w+)}")
_TAGS = {
    OURS: "Sequences of any lengths, without padding.",
    OIP: "What clients of KServe, Triton and MLServer ask for.",
    SERVER: "This documentation.",
}


def routes(*, with_keys: bool = False) -> list[Route]:
    """The document, built once, and the page with its parts, which come from this server alone."""
    text = to_json(with_key(document()) if with_keys else document())
    folder = Path(str(files("seqlens") / "web"))
    static = StaticFiles(directory=folder / "docs")
    static.all_directories += [folder / "swagger-ui"]

    async def openapi(request: Request) -> Response:
        return bytes_answer(request, text, headers={"content-type": JSON})

    async def page(request: Request) -> Response:
        return await _file(static, "index.html", request)

    async def part(request: Request) -> Response:
        return await _file(static, request.path_params["file"], request)

    return [
        Route("/openapi.json", openapi),
        Route("/docs", page),
        Route("/docs/{file}", part),
    ]


async def _file(static: StaticFiles, name: str, request: Request) -> Response:
    response = await static.get_response(name, request.scope)
    response.headers["content-security-policy"] = CONTENT_SECURITY_POLICY
    return response


def document() -> Json:
    """The document, after OpenAPI 3.1."""
    paths: dict[str, Json] = {}
    for operation in operations():
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SeqLens",
            "version": __version__,
            "description": "Inference for RNN, LSTM and Transformer models. Every error is JSON "
            "with a text in `error`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": schemas()},
    }


def with_key(document: Json) -> Json:
    """The document of a server that asks for keys; its page lets people enter one."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values() if not is_open(path) else ():
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = _error(HTTPStatus.UNAUTHORIZED)
    return document


def _operation(operation: Operation) -> Json:
    written: Json = {
        "operationId": _operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.description:
        written["description"] = operation.description
    if operation.body:
        written["requestBody"] = {"required": operation.body_required, "content": operation.body}
    return written


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join([operation.method.lower(), *words])


def _parameters(operation: Operation) -> list[Json]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(operation.path)
    ]
    others = [
        {"name": name, "in": place, "schema": schema}
        for place, named in (("query", operation.query), ("header", operation.headers))
        for name, schema in named.items()
    ]
    return in_path + others


def _responses(operation: Operation) -> Json:
    answer: Json = {"description": HTTPStatus.OK.phrase}
    if operation.answer:
        answer["content"] = operation.answer
    errors = {str(status): _error(status) for status in sorted(set(operation.errors))}
    return {"200": answer, **errors}


def _error(status: int) -> Json:
    content = json_of(reference("Error"))
    return {"description": HTTPStatus(status).phrase, "content": content}
