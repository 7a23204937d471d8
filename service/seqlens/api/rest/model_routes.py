"""Health, metadata, configuration and statistics under ``/v2``."""

from http import HTTPStatus
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.rest.answers import json_answer
from seqlens.api.rest.messages import metadata, plain, statistics
from seqlens.errors import ModelNotReady
from seqlens_wire.pb import open_inference_pb2 as pb

MODEL_PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


def model_routes(core: Core, control: dict[str, ControlCall]) -> list[Route]:
    """A route for each call that only tells something."""
    calls = _ModelCalls(core, control)
    of_models = (
        ("", calls.metadata),
        ("/ready", calls.model_ready),
        ("/config", calls.config),
        ("/stats", calls.statistics),
    )
    return [
        Route("/v2", calls.server),
        Route("/v2/health/live", calls.live),
        Route("/v2/health/ready", calls.ready),
        Route("/v2/models", calls.models),
        Route("/v2/models/stats", calls.statistics),  # in front of a model of that name
        *(Route(path + tail, call) for path in MODEL_PATHS for tail, call in of_models),
    ]


def named(request: Request) -> tuple[str, str]:
    """Model and version of a path, empty where it has none."""
    return request.path_params.get("model", ""), request.path_params.get("version", "")


class _ModelCalls:
    def __init__(self, core: Core, control: dict[str, ControlCall]) -> None:
        self._core = core
        self._control = control

    async def server(self, request: Request) -> Response:
        response = await self._ask("ServerMetadata", pb.ServerMetadataRequest())
        return json_answer(plain(response))

    async def live(self, request: Request) -> Response:
        return json_answer({"live": True, "ready": self._core.ready()})

    async def ready(self, request: Request) -> Response:
        """Both keys for clients that read the body, the status for all others."""
        if self._core.ready():
            return json_answer({"live": True, "ready": True})
        body = {"live": True, "ready": False, "error": "the server is loading or shutting down"}
        return json_answer(body, status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def model_ready(self, request: Request) -> Response:
        name, version = named(request)
        response = await self._ask("ModelReady", pb.ModelReadyRequest(name=name, version=version))
        if not response.ready:
            self._core.models.repository.get(name, version)  # raises and says why, in most cases
            raise ModelNotReady(f"model {name!r} takes no requests now")
        return json_answer({"name": name, "ready": True})

    async def models(self, request: Request) -> Response:
        """KServe's list of names."""
        response = await self._ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
        names = dict.fromkeys(model.name for model in response.models)
        return json_answer({"models": list(names)})

    async def metadata(self, request: Request) -> Response:
        name, version = named(request)
        message = pb.ModelMetadataRequest(name=name, version=version)
        return json_answer(metadata(await self._ask("ModelMetadata", message)))

    async def config(self, request: Request) -> Response:
        name, version = named(request)
        message = pb.ModelConfigRequest(name=name, version=version)
        response = await self._ask("ModelConfig", message)
        return json_answer(plain(response.config))

    async def statistics(self, request: Request) -> Response:
        name, version = named(request)
        message = pb.ModelStatisticsRequest(name=name, version=version)
        return json_answer(statistics(await self._ask("ModelStatistics", message)))

    async def _ask(self, rpc: str, message: Message) -> Any:
        return await self._control[rpc](message)
