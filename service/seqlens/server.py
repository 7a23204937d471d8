"""The composition root: builds every part, hands each its collaborators, undoes it in reverse."""

import asyncio
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Self

import structlog
import uvloop
from prometheus_client import CollectorRegistry, start_http_server

from seqlens.api.calls import Calls
from seqlens.api.control.calls import control_calls
from seqlens.api.core import Core
from seqlens.api.grpc.server import GrpcServer
from seqlens.api.inference import Inference
from seqlens.api.insight.insight import Insight
from seqlens.api.log_switches import LogSwitches
from seqlens.api.request_log import RequestLog
from seqlens.api.rest.app import build_app
from seqlens.api.rest.server import RestServer
from seqlens.api.security import read_security
from seqlens.api.served import ServedModels
from seqlens.api.shared_memory import SharedMemory
from seqlens.api.statistics import Statistics
from seqlens.api.tracing import Tracing
from seqlens.metrics.fanout import tell_all
from seqlens.metrics.observer import Observer
from seqlens.metrics.prometheus import PrometheusObserver
from seqlens.repository.loading import LoadedModel
from seqlens.repository.models import Repository
from seqlens.scheduling.insight_lanes import InsightLanes
from seqlens.scheduling.lanes import Arbiter
from seqlens.scheduling.model_queue import ServedModel
from seqlens.settings import ServerSettings

_log = structlog.get_logger("seqlens.server")


class CannotListen(Exception):
    """A port is taken or an address is not this machine's."""

    def __init__(self, what: str, address: str, reason: str) -> None:
        super().__init__(f"cannot listen for {what} on {address}: {reason}")


class Server:
    """A running server: see ``start``.

    It listens from the start and is ready once the first load has ended. A model that cannot
    be loaded does not keep the server from being ready: its own readiness is false and says
    why, and all others are served.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()
        lanes = settings.lanes or os.cpu_count() or 1
        security = read_security(settings)
        statistics = Statistics()
        observer = _observer(settings, self._registry, lanes, statistics)
        request_log, tracing = RequestLog(settings.log_requests), Tracing(settings.trace_file)
        self._arbiter = Arbiter(lanes, observer)
        self._repository = Repository(settings, observer, self._serve, self._serve_no_more)
        self._models = ServedModels(self._repository, observer)
        self._ready = False
        inference, calls = (
            Inference(settings.limits),
            Calls(observer, statistics, request_log, tracing),
        )
        insight = settings.insight
        self._insight_lanes = InsightLanes(
            insight.threads,
            insight.max_waiting,
            share=insight.share,
            busy=lambda: self._arbiter.busy,
        )
        observer.watch_insight(lambda: self._insight_lanes.waiting)
        core = Core(
            settings=settings,
            inference=inference,
            insight=Insight(insight, inference, calls, self._insight_lanes, observer),
            models=self._models,
            calls=calls,
            statistics=statistics,
            memory=SharedMemory(settings.limits.max_message_bytes),
            tracing=tracing,
            logs=LogSwitches(request_log),
            lanes=lanes,
            ready=self.is_ready,
        )
        self._core = core
        control = control_calls(core)
        self._grpc = GrpcServer(core, control, security)
        self._rest = RestServer(
            build_app(core, control, security.keys),
            settings.limits,
            core.calls.quiet,
            security.certificates,
        )
        self._loading: asyncio.Task[None] | None = None
        self.rest_address = ""
        self.grpc_address = ""
        self.metrics_address = ""

    @classmethod
    @asynccontextmanager
    async def start(cls, settings: ServerSettings) -> AsyncIterator[Self]:
        """Listen, load the repository in the background, and drain at the end.

        Raises ``CannotListen`` when a port is taken, ``InvalidSetting`` when a file of
        ``settings.security`` cannot be used.
        """
        server = cls(settings)
        async with AsyncExitStack() as stack:
            server._listen_for_metrics(stack)
            server._arbiter.start()
            stack.callback(server._arbiter.close)
            server._insight_lanes.start()
            stack.callback(server._insight_lanes.close)
            stack.callback(server._core.memory.close)
            stack.callback(server._core.tracing.close)
            stack.callback(server._core.logs.close)
            await server._listen_for_grpc()
            await server._listen_for_rest()
            stack.push_async_callback(server._repository.close)
            server._loading = asyncio.create_task(server._load())
            stack.push_async_callback(server._drain)
            yield server

    async def ready(self) -> None:
        """Wait for the end of the first load. Raises what makes the whole repository unusable."""
        assert self._loading is not None  # start has made it
        await asyncio.shield(self._loading)

    def is_ready(self) -> bool:
        """Whether the first load has ended and the server is not shutting down."""
        return self._ready and not self._models.draining.is_set()

    def ready_line(self) -> str:
        """What ``seqlens serve`` prints once it is ready."""
        models = sum(entry.state == "READY" for entry in self._repository.index())
        return (
            f"ready rest={self.rest_address} grpc={self.grpc_address} "
            f"metrics={self.metrics_address} models={models}"
        )

    def _listen_for_metrics(self, stack: AsyncExitStack) -> None:
        host, port = self._settings.host, self._settings.metrics_port
        try:
            http, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise CannotListen("metrics", f"{host}:{port}", error.strerror or str(error)) from error
        self.metrics_address = f"{host}:{http.server_port}"
        stack.callback(thread.join)
        stack.callback(http.server_close)
        stack.callback(http.shutdown)

    async def _listen_for_grpc(self) -> None:
        host, port = self._settings.host, self._settings.grpc_port
        try:
            port = await self._grpc.start(f"{host}:{port}")
        except RuntimeError as error:
            raise CannotListen("gRPC", f"{host}:{port}", "address in use or not ours") from error
        self.grpc_address = f"{host}:{port}"

    async def _listen_for_rest(self) -> None:
        host, port = self._settings.host, self._settings.http_port
        try:
            port = await self._rest.start(host, port)
        except OSError as error:
            await self._grpc.stop(0)
            raise CannotListen("REST", f"{host}:{port}", error.strerror or str(error)) from error
        self.rest_address = f"{host}:{port}"

    async def _load(self) -> None:
        await self._repository.load_all()
        _spare_from_garbage_collection()
        self._ready = True
        await self._grpc.set_health(True)

    async def _serve(self, model: LoadedModel) -> None:
        served = ServedModel(
            model.metric_labels,
            model.engine,
            model.decision,
            model.cost,
            model.scheduler,
        )
        self._core.insight.add(model)
        self._models.add(model, self._arbiter.add(served))
        await self._grpc.set_model_health(model.name, True)

    async def _serve_no_more(self, model: LoadedModel) -> None:
        queue = self._models.remove(model)
        if not self._models.versions(model.name):
            await self._grpc.set_model_health(model.name, False)
        seconds = self._settings.drain_seconds
        ending = [self._core.insight.remove(model, drain_seconds=seconds)]
        if queue is not None:
            ending.append(self._arbiter.remove(queue, drain_seconds=seconds))
        await asyncio.gather(*ending)

    async def _drain(self) -> None:
        """Refuse new work, finish what is in progress, as far as the time allowed goes."""
        _log.info("draining", seconds=self._settings.drain_seconds)
        self._models.draining.set()
        if self._loading is not None:
            self._loading.cancel()
        seconds = self._settings.drain_seconds
        await asyncio.gather(self._grpc.stop(seconds), self._rest.stop(seconds))
        await self._insight_lanes.drain(0)
        await self._arbiter.drain(0)


def _spare_from_garbage_collection() -> None:
    """Let no later collection walk over what was built so far: with torch that takes 0.1 s."""
    gc.collect()
    gc.freeze()


def _allow_many_connections() -> None:
    """As many as the system lets us have; the usual soft limit is for ``select``, not for us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where most means more than there can be
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve_until_stopped(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ``CannotListen`` and ``InvalidSetting``."""
    _allow_many_connections()
    uvloop.run(_serve_until_stopped(settings))


async def _serve_until_stopped(settings: ServerSettings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Server.start(settings) as server:
        stopped = asyncio.create_task(stopping.wait())
        ready = asyncio.create_task(server.ready())
        await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            print(server.ready_line(), flush=True)
        await stopped


def _observer(
    settings: ServerSettings, registry: CollectorRegistry, lanes: int, statistics: Statistics
) -> Observer:
    prometheus = PrometheusObserver(
        registry,
        settings.length_buckets,
        lanes=lanes,
        max_sequence_length=settings.limits.max_sequence_length,
    )
    return tell_all(prometheus, statistics)
