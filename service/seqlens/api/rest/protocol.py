"""HTTP/1.1 on one connection: uvicorn's parser and cycle, with bounds on what clients may do."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import httptools
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from seqlens.api.rest.flow import Flow
from seqlens.api.rest.raw_answers import ANY_LENGTH, write_refusal
from seqlens.settings import LimitSettings

# Of a head, or of chunk extensions and trailers: bytes that bring no part of a body.
MAX_HEAD_BYTES = 32 << 10
# What the parser is given at once; it cannot be stopped, and a request needs only 18 bytes.
PIECE_BYTES = 16 << 10
# How long the rest of a body that nobody wants is read, so that its sender gets to the answer.
UNREAD_SECONDS = 5.0


@dataclass(slots=True)
class WireState:
    """What all connections share."""

    limits: LimitSettings
    draining: bool = False  # every answer is the last of its connection


class RestProtocol(HttpToolsProtocol):
    """One connection.

    - The head of a request has its time and its size; so has a connection for its first.
    - Invalid HTTP is answered in JSON, after the answers to the requests before it.
    - Pipelined requests are taken as their turn comes.
    - When the client hangs up, the task that serves its request is cancelled.
    - A client that reads nothing of its answer is cut off.
    - A client that is still sending when the connection ends gets to see why.
    """

    def __init__(
        self,
        state: WireState,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive = state.limits.keep_alive_seconds  # type: ignore[assignment]
        self._state = state
        self._limits = state.limits
        self._task: asyncio.Task[None] | None = None
        self._running: RequestResponseCycle | None = None  # of pipelined requests the first
        self._in_head = False
        self._replaying = False  # a head that was read before
        self._barren_bytes = 0  # since the head began, or since the last of a body
        self._held = bytearray()  # came, but is not parsed yet
        self._refusal = b""  # to be sent once the answers before it are out
        self._lingering = False
        self._timer: asyncio.TimerHandle | None = None  # for a head, or a body nobody wants

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client its time to begin."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline, self.loop, self._limits.body_timeout_seconds)
        self._answers = SimpleNamespace(
            write=transport.write, is_closing=transport.is_closing, close=self._end
        )
        self._start_timer(self._limits.header_timeout_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what was done for the client."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_timer()
        self.pipeline.clear()
        if self._busy():
            self._abandon()

    def shutdown(self) -> None:
        """End the connection, after the answers in progress."""
        if self._lingering:
            self.transport.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse as much as may be parsed now."""
        if self._deaf():
            return
        self._unset_keepalive_if_required()
        if self._held or len(data) > PIECE_BYTES:
            self._held += data
            self._feed_held()
        else:
            self._feed(data)

    def _feed_held(self) -> None:
        while self._held and not self.pipeline and not self._deaf():
            piece = bytes(self._held[:PIECE_BYTES])
            del self._held[:PIECE_BYTES]
            self._feed(piece)

    def _feed(self, data: bytes) -> None:
        self._barren_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_offer()
            if rest := data[upgrade.args[0] :]:
                self._feed(rest)
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is not valid HTTP/1.1")
        if not self._deaf():
            self._check_head()

    def _pass_over_offer(self) -> None:
        """Let the parser read the body of a request that offers to go on in another protocol.

        It would leave that to the other protocol, but the server goes on with this one.
        """
        framing = (b"content-length", b"transfer-encoding")
        lines = [b": ".join(line) for line in self.scope["headers"] if line[0] in framing]
        if lines:
            self.cycle.more_body = True
            self.cycle.message_event.clear()
            self.parser = httptools.HttpRequestParser(self)
            self._replaying = True
            self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *lines, b"", b""]))
            self._replaying = False

    def _check_head(self) -> None:
        if self._barren_bytes > MAX_HEAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the head of the request: got more than {MAX_HEAD_BYTES} bytes, expected less",
            )
        elif self._timer is None and (self._in_head or not self._busy()):
            self._start_timer(self._limits.header_timeout_seconds, self._head_is_late)

    def _deaf(self) -> bool:
        return bool(self._refusal) or self._lingering or self.transport.is_closing()

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._replaying:
            return
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Serve the request, or let it wait for its turn."""
        if self._replaying:
            return
        is_old = self.parser.get_http_version() == "1.0"
        self.expect_100_continue &= not is_old
        super().on_headers_complete()
        self._in_head, self._barren_bytes = False, 0
        self._stop_timer()
        self.headers = []  # trailers must not change what the request was
        self.cycle.transport = self._answers  # type: ignore[assignment]
        if is_old:
            # It knows no chunks: an answer without a length ends with the connection.
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = ANY_LENGTH
        if self._state.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on."""
        self._barren_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here in full."""
        self._barren_bytes = 0
        super().on_message_complete()
        self.cycle.more_body = False
        if self.cycle.response_complete:
            # What came was the rest of a body that nobody wanted.
            self._stop_timer()
            self._keep_alive()
        else:
            # Otherwise the end of the connection would not be seen.
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._task = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        if self._refusal and not self.pipeline and not self._lingering:
            self._send_refusal()
        if self._lingering or self.transport.is_closing():
            return
        super().on_response_complete()
        if self._held:
            # Not from within the answer: its task goes on after this.
            self.loop.call_soon(self._feed_held)
        if not self._busy() and self.cycle.more_body:
            self._start_timer(UNREAD_SECONDS, self._end)

    def _abandon(self) -> None:
        """Nobody waits for the answer any more."""
        assert self._running is not None  # callers have asked whether it is busy
        assert self._task is not None
        self._running.disconnected = True
        self._task.cancel()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what cannot be read, after the answers to what could be, and end."""
        self._refusal = write_refusal(status, text, self.server_state.default_headers)
        self._stop_timer()
        if not self._in_head and self.cycle is not None and self.cycle.more_body:
            # It is the body of the last request that cannot be read.
            if self.pipeline:
                self.pipeline.popleft()
            elif self._busy():
                self._abandon()
                self._send_refusal()
                return
        if not self._busy():
            self._send_refusal()

    def _send_refusal(self) -> None:
        begun = self.cycle is not None and self.cycle.response_started
        if not begun or self.cycle.response_complete:
            self.transport.write(self._refusal)
        self._linger()

    def _end(self) -> None:
        """Close, but not in the face of a client that still sends: it would lose the answer."""
        if self._held or self.pipeline or (self.cycle is not None and self.cycle.more_body):
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self._lingering = True
        self._held.clear()
        self.pipeline.clear()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._start_timer(UNREAD_SECONDS, self.transport.abort)

    def _start_timer(self, seconds: float, then: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            seconds = self._limits.header_timeout_seconds
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the head of the request: got a part of it in {seconds} s, expected all of it "
                "(limits.header_timeout_seconds)",
            )
        else:
            self.transport.close()

    def _keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing happens."""
        if self.flow.write_paused:
            self._keep_alive()  # a large answer is still being read; ``flow`` sees that it is
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait for the client to read the rest
        else:
            self.transport.close()
