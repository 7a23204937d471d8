"""A REST server of routes that tell what the transport does: run as a process of its own.

Takes limits as a JSON object, prints its port, and drains within a second at SIGTERM.
"""

import asyncio
import json
import resource
import signal
import sys
from collections.abc import AsyncIterator

import uvloop
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from seqlens.api.rest.answers import bytes_answer, json_answer
from seqlens.api.rest.app import App
from seqlens.api.rest.body import read_body
from seqlens.api.rest.server import RestServer
from seqlens.cli.logs import configure_logs
from seqlens.errors import Overloaded
from seqlens.settings import LimitSettings

DRAIN_SECONDS = 1.0


class Probe:
    """The routes."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._left = self._begun = 0

    def routes(self) -> list[Route]:
        both = ["GET", "POST"]
        return [
            Route("/echo", self.echo, methods=["POST"]),
            Route("/path/{name}", self.path, methods=both),
            Route("/bytes/{count:int}", self.bytes),
            Route("/stream/{count:int}", self.stream),
            Route("/wait/{seconds:float}", self.wait, methods=both),
            Route("/seen", self.seen),
            Route("/fail", self.fail),
            Route("/fail-late", self.fail_late),
            Route("/overloaded", self.overloaded),
            Route("/two-methods", self.seen),
            Route("/two-methods", self.echo, methods=["PUT"]),
        ]

    async def echo(self, request: Request) -> Response:
        return bytes_answer(request, await read_body(request, self._limits))

    async def path(self, request: Request) -> Response:
        scope = request.scope
        return json_answer([request.path_params["name"], scope["query_string"].decode()])

    async def bytes(self, request: Request) -> Response:
        return bytes_answer(request, bytes(request.path_params["count"]))

    async def stream(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(request.path_params["count"]):
                yield b"x" * 65_536

        return StreamingResponse(pieces())

    async def wait(self, request: Request) -> Response:
        await read_body(request, self._limits)
        self._begun += 1
        try:
            await asyncio.sleep(request.path_params["seconds"])
        except asyncio.CancelledError:
            self._left += 1
            raise
        return json_answer("waited")

    async def seen(self, request: Request) -> Response:
        """How many waits have begun, how many were cancelled; peak of memory in MiB."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return json_answer({"begun": self._begun, "left": self._left, "peak": peak})

    async def fail(self, request: Request) -> Response:
        raise RuntimeError("a secret of the server")

    async def fail_late(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a part"
            raise RuntimeError("a secret of the server")

        return StreamingResponse(pieces())

    async def overloaded(self, request: Request) -> Response:
        raise Overloaded("come again", retry_after_seconds=1.2)


async def quiet(seconds: float, at_most: float) -> None:
    await asyncio.sleep(min(seconds, at_most))


async def main() -> None:
    configure_logs()
    limits = LimitSettings(**json.loads(sys.argv[1]))
    server = RestServer(App(Probe(limits).routes()), limits, quiet)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print(await server.start("127.0.0.1", 0), flush=True)
    await stopping.wait()
    await server.stop(DRAIN_SECONDS)


if __name__ == "__main__":
    uvloop.run(main())
