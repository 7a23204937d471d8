"""Pieces of work that a request has done in a thread, each settled once, on the event loop."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from seqlens.errors import BackendFailed, SeqLensError

_log = logging.getLogger(__name__)

Cancelled = Callable[[], bool]  # asked by long work: whether nobody wants its result any more


class Piece:
    """Work that waits or runs. ``settled`` is told with it how many seconds it took."""

    def __init__(
        self,
        work: Callable[[Cancelled], Any],
        future: "asyncio.Future[Any]",
        settled: "Callable[[Piece, float], None]",
    ) -> None:
        self.work, self.future = work, future
        self.cancelled = False
        self._settled = settled

    def settle(self, result: Any, error: Exception | None, seconds: float) -> None:
        """Hand over what the work gave, on the event loop."""
        self._settled(self, seconds)
        if self.future.done():  # the caller has left
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def fail(self, error: SeqLensError) -> None:
        """Let the caller go on with an error."""
        if not self.future.done():
            self.future.set_exception(error)


def caller_failure(error: BaseException) -> Exception:
    """What the caller gets; what a future cannot hold, or would end the server, is none of it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    _log.critical("looking inside a model ended in an unexpected way", exc_info=error)
    failure = BackendFailed(f"looking inside the model failed: {type(error).__name__}")
    failure.__cause__ = error
    return failure
