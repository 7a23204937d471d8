"""Asking a second time when the first answer is slow to come; the first to come wins.

gRPC in Python accepts a hedging policy and ignores it, so this is done here, for requests that
may safely be answered twice.
"""

import asyncio
import queue
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from seqlens_client._errors import SeqLensError, error_of_status
from seqlens_client._patience import settles


def hedged(start: Callable[[], Any], hedge_after: float) -> Any:
    """The answer of a call begun by ``start``, or of another one begun after as many seconds.

    Raises ``SeqLensError``. The call that is not needed any more is cancelled.
    """
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    calls = [_begin(start, ended)]
    try:
        try:
            first = ended.get(timeout=hedge_after)
        except queue.Empty:
            calls.append(_begin(start, ended))
            first = ended.get()
            if not settles(first.code()):
                first = ended.get()
        return _answer(first)
    finally:
        for call in calls:
            call.cancel()


def _begin(start: Callable[[], Any], ended: "queue.SimpleQueue[Any]") -> Any:
    call = start()
    call.add_done_callback(ended.put)
    return call


def _answer(call: Any) -> Any:
    code = call.code()
    if code is grpc.StatusCode.OK:
        return call.result()
    raise error_of_status(code, call.details(), call.trailing_metadata())


async def hedged_aio(start: Callable[[], Coroutine[Any, Any, Any]], hedge_after: float) -> Any:
    """The same for an event loop. Raises what the call raises."""
    calls = [asyncio.create_task(start())]
    try:
        done, _ = await asyncio.wait(calls, timeout=hedge_after)
        if not done:
            calls.append(asyncio.create_task(start()))
            done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            if others and not any(map(_settled, done)):
                done, _ = await asyncio.wait(others)
        return max(done, key=_settled).result()
    finally:
        await _cancel(calls)


def _settled(call: "asyncio.Task[Any]") -> bool:
    error = None if call.cancelled() else call.exception()
    return not isinstance(error, SeqLensError) or settles(grpc.StatusCode[error.code])


async def _cancel(calls: "list[asyncio.Task[Any]]") -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
