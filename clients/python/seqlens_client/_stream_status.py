"""The status with which a server ended a stream, kept from being lost.

In grpc.aio a write that fails because the server has ended the call replaces the server's own
status by INTERNAL, or comes before it: https://github.com/grpc/grpc/issues/36066.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from seqlens_client._errors import SeqLensError, error_of_call, error_of_status

T = TypeVar("T")
FAILED_WRITE = "Internal error from Core"
# The server's status is at most a few turns of the event loop away.
WAIT_SECONDS = 1.0


class StreamStatus:
    """Listens to every status that a call is given and keeps the server's."""

    def __init__(self, call: Any) -> None:
        self._given: asyncio.Future[SeqLensError | None] = (
            asyncio.get_running_loop().create_future()
        )
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        details = _at_once(call.details())
        if details != FAILED_WRITE and not self._given.done():
            code, metadata = _at_once(call.code()), _at_once(call.trailing_metadata())
            ok = code is grpc.StatusCode.OK
            self._given.set_result(None if ok else error_of_status(code, details, metadata))

    async def error(self, seen: grpc.RpcError) -> SeqLensError | None:
        """The error with which the server ended the call that failed with ``seen``, if with any."""
        error = error_of_call(seen)
        if error.message != FAILED_WRITE:
            return error
        done, _ = await asyncio.wait({self._given}, timeout=WAIT_SECONDS)
        return self._given.result() if done else error


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine that has nothing to wait for, as those of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the call has not ended yet")
