"""The document of REST: complete, valid, kept to by a real server, and shown by a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode, SerializationContext
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.conftest import RunningServer, StartServer
from tests.support.browsers import chromium
from tests.support.http_wire import ask, head

from seqlens.api.control.calls import control_calls
from seqlens.api.rest import openapi
from seqlens.api.rest.app import build_app
from seqlens.server import Server
from seqlens.settings import ServerSettings

DOCUMENT = openapi.document()
OPERATIONS = [
    (path, method) for path, operations in DOCUMENT["paths"].items() for method in operations
]
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
MODEL = "lstm-onnx"


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_the_server_gives_the_document(server: RunningServer) -> None:
    assert ask(server.rest, head("GET", "/openapi.json")).json == DOCUMENT


async def test_every_route_is_in_the_document_and_the_other_way_round(tmp_path: Path) -> None:
    core = Server(ServerSettings(repository=tmp_path))._core
    app = build_app(core, control_calls(core))
    served = {(route.path, method.lower()) for route in app.routes for method in route.methods}
    # What answers GET answers HEAD.
    assert {one for one in served if one[1] != "head"} == set(OPERATIONS)


@pytest.fixture(scope="module")
def fuzzed(repository: Path, serve_for_module: StartServer) -> RunningServer:
    """A server of its own: its model is loaded and unloaded, and its settings change."""
    return serve_for_module(repository / MODEL)


@schemathesis.serializer("application/x-ndjson")
def as_line(context: SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def schema(fuzzed: RunningServer) -> Any:
    """The server's document, with names that it knows for those of models."""
    document = ask(fuzzed.rest, head("GET", "/openapi.json")).json
    names = {"model": [MODEL], "version": ["1", "2"]}
    for path, method in OPERATIONS:
        for parameter in document["paths"][path][method]["parameters"]:
            if parameter["in"] == "path" and parameter["name"] in names:
                parameter["schema"] = {"enum": names[parameter["name"]]}
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_server_keeps_to_the_document(
    path: str, method: str, schema: Any, fuzzed: RunningServer
) -> None:
    operation, described = schema[path][method.upper()], DOCUMENT["paths"][path][method]
    # 501 and 503 are what they are meant to be.
    meant = {"501", "503"} & set(described["responses"])
    checks = [check for check in CHECKS if not (meant and check is not_a_server_error)]
    # Only of a body something wrong can be made that is not another request.
    modes = list(GenerationMode) if "requestBody" in described else [GenerationMode.POSITIVE]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=25,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def fuzz(case: Case) -> None:
        response = case.call(base_url=f"http://{fuzzed.rest}", timeout=20)
        case.validate_response(response, checks=checks)
        assert response.status_code != 500, response.text

    fuzz()
    assert ask(fuzzed.rest, head("GET", "/v2/health/live")).status == 200


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def test_the_page_shows_the_operations_and_asks_nobody_else(
    browser: Any, server: RunningServer
) -> None:
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on("response", lambda response: wrong.append(response.url) if not response.ok else None)
    page.goto(f"http://{server.rest}/docs")
    page.wait_for_selector(".opblock")
    shown = page.locator(".opblock-summary-path").all_inner_texts()
    assert sorted(path.replace("\u200b", "") for path in shown) == sorted(p for p, _ in OPERATIONS)
    page.locator("#operations-Sequences-post_v1_models_model_process").click()
    page.get_by_placeholder("model").fill(MODEL)
    page.get_by_role("button", name="Execute").click()
    page.wait_for_selector(".live-responses-table .response-col_status")
    assert "200" in page.locator(".live-responses-table .response-col_status").last.inner_text()
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {server.rest}
    assert wrong == []
