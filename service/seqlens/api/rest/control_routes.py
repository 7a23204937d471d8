"""Repository, trace and log settings, and shared memory under ``/v2``."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens.api.control.calls import ControlCall
from seqlens.api.rest import messages
from seqlens.api.rest.answers import json_answer
from seqlens.api.rest.body import read_body
from seqlens.api.rest.model_routes import named
from seqlens.settings import LimitSettings
from seqlens_wire.pb import open_inference_pb2 as pb

_REPOSITORIES = ("/v2/repository", "/v2/repository/{repository}")
_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
_REGION = "/region/{region}"


def control_routes(limits: LimitSettings, control: dict[str, ControlCall]) -> list[Route]:
    """A route for each call that changes something, and for those that show what it changed."""
    calls = _ControlCalls(limits, control)
    return [
        *_repository_routes(calls),
        *_setting_routes(calls),
        *_memory_routes(calls, control),
    ]


def _repository_routes(calls: "_ControlCalls") -> list[Route]:
    return [
        route
        for path in _REPOSITORIES
        for route in (
            Route(f"{path}/index", calls.index, methods=["POST"]),
            Route(f"{path}/models/{{model}}/load", calls.load, methods=["POST"]),
            Route(f"{path}/models/{{model}}/unload", calls.unload, methods=["POST"]),
        )
    ]


def _setting_routes(calls: "_ControlCalls") -> list[Route]:
    return [
        Route("/v2/trace/setting", calls.trace, methods=["GET", "POST"]),
        Route("/v2/models/{model}/trace/setting", calls.trace, methods=["GET", "POST"]),
        Route("/v2/logging", calls.log, methods=["GET", "POST"]),
    ]


def _memory_routes(calls: "_ControlCalls", control: dict[str, ControlCall]) -> list[Route]:
    return [
        Route(f"{_SYSTEM}/status", calls.regions),
        Route(f"{_SYSTEM}{_REGION}/status", calls.regions),
        Route(f"{_SYSTEM}{_REGION}/register", calls.register, methods=["POST"]),
        Route(f"{_SYSTEM}/unregister", calls.unregister, methods=["POST"]),
        Route(f"{_SYSTEM}{_REGION}/unregister", calls.unregister, methods=["POST"]),
        *_cuda_routes(control),
    ]


def _cuda_routes(control: dict[str, ControlCall]) -> list[Route]:
    """No region of a GPU is ever read: the control calls say so, whatever is in the body."""
    status = _call(control["CudaSharedMemoryStatus"], pb.CudaSharedMemoryStatusRequest())
    register = _call(control["CudaSharedMemoryRegister"], pb.CudaSharedMemoryRegisterRequest())
    unregister = _call(
        control["CudaSharedMemoryUnregister"], pb.CudaSharedMemoryUnregisterRequest()
    )
    return [
        Route(f"{_CUDA}/status", status),
        Route(f"{_CUDA}{_REGION}/status", status),
        Route(f"{_CUDA}{_REGION}/register", register, methods=["POST"]),
        Route(f"{_CUDA}/unregister", unregister, methods=["POST"]),
        Route(f"{_CUDA}{_REGION}/unregister", unregister, methods=["POST"]),
    ]


def _call(call: ControlCall, message: Message) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return json_answer(messages.plain(await call(message)))

    return endpoint


class _ControlCalls:
    """Calls that have nothing to tell answer without a body, as the reference server does."""

    def __init__(self, limits: LimitSettings, control: dict[str, ControlCall]) -> None:
        self._limits = limits
        self._control = control

    async def index(self, request: Request) -> Response:
        text = await read_body(request, self._limits)
        message = messages.read_index(_repository(request), text)
        response = await self._ask("RepositoryIndex", message)
        return json_answer(messages.index(response))

    async def load(self, request: Request) -> Response:
        text = await read_body(request, self._limits)
        message = messages.read_load(_repository(request), named(request)[0], text)
        await self._ask("RepositoryModelLoad", message)
        return Response()

    async def unload(self, request: Request) -> Response:
        text = await read_body(request, self._limits)
        message = messages.read_unload(_repository(request), named(request)[0], text)
        await self._ask("RepositoryModelUnload", message)
        return Response()

    async def trace(self, request: Request) -> Response:
        text = await self._changes(request)
        message = messages.read_trace_settings(named(request)[0], text)
        response = await self._ask("TraceSetting", message)
        return json_answer(messages.trace_settings(response))

    async def log(self, request: Request) -> Response:
        message = messages.read_log_settings(await self._changes(request))
        response = await self._ask("LogSettings", message)
        return json_answer(messages.log_settings(response))

    async def regions(self, request: Request) -> Response:
        message = pb.SystemSharedMemoryStatusRequest(name=_region(request))
        response = await self._ask("SystemSharedMemoryStatus", message)
        return json_answer(messages.regions(response))

    async def register(self, request: Request) -> Response:
        text = await read_body(request, self._limits)
        message = messages.read_region(_region(request), text)
        await self._ask("SystemSharedMemoryRegister", message)
        return Response()

    async def unregister(self, request: Request) -> Response:
        message = pb.SystemSharedMemoryUnregisterRequest(name=_region(request))
        await self._ask("SystemSharedMemoryUnregister", message)
        return Response()

    async def _ask(self, rpc: str, message: Message) -> Any:
        return await self._control[rpc](message)

    async def _changes(self, request: Request) -> bytes:
        """Settings to change: none if they are only asked for."""
        return b"{}" if request.method != "POST" else await read_body(request, self._limits)


def _repository(request: Request) -> str:
    name: str = request.path_params.get("repository", "")
    return name


def _region(request: Request) -> str:
    name: str = request.path_params.get("region", "")
    return name
