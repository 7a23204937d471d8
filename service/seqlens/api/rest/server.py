"""The REST server: uvicorn as a task of the event loop that gRPC runs on."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from seqlens.api.certificates import Certificates
from seqlens.api.rest.protocol import RestProtocol, WireState
from seqlens.api.rest.security import renewing_context
from seqlens.api.watched import Watched
from seqlens.settings import LimitSettings

# Waits until no call has begun for so many seconds, but not longer than the second number.
Quiet = Callable[[float, float], Awaitable[None]]

# Connections that the system accepts while the event loop is busy.
BACKLOG = 4_096
# Connections that were accepted, or requests that were sent, just before the server stops to
# listen are still answered.
QUIET_SECONDS = 0.25
# Time for the last answers to leave once their tasks have been cancelled.
LAST_ANSWER_SECONDS = 0.5


class _Uvicorn(uvicorn.Server):
    """Says when it listens, and leaves the signals to the rest of the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take none."""
        yield


class RestServer:
    """Listens for requests. Must be made inside the running event loop."""

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitSettings,
        quiet: Quiet,
        certificates: Watched[Certificates] | None = None,
    ) -> None:
        self._quiet = quiet
        self._state = WireState(limits)
        self._config = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], partial(RestProtocol, self._state)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
        )
        self._config.load()
        if certificates is not None:
            self._config.ssl = renewing_context(certificates)
        self._server = _Uvicorn(self._config)
        self._listening: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises ``OSError`` if that cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Without SO_REUSEPORT, so that a second server on the port fails instead of taking half
        # of the requests.
        self._listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._serving = asyncio.create_task(self._server.serve([self._listening]))
        await self._server.listens.wait()
        return cast(int, self._listening.getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Take no new connections, and let requests in progress finish."""
        if self._serving is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self._state.draining = True
        for listener in self._server.servers:
            listener.close()
        await self._quiet(QUIET_SECONDS, seconds / 2)
        # None would wait for ever, as long as a client reads nothing of its answer.
        self._config.timeout_graceful_shutdown = max(0.0, end - loop.time())  # type: ignore[assignment]
        self._server.should_exit = True
        await self._serving
        await self._end_connections()

    async def _end_connections(self) -> None:
        """Those that are still open when the time is over."""
        state = self._server.server_state
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=LAST_ANSWER_SECONDS)
        for connection in list(state.connections):
            cast(RestProtocol, connection).transport.abort()
