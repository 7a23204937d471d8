"""How long to wait, and whether to ask once more: decisions without clocks of their own."""

import math
import time

import grpc

from seqlens_client._errors import Overloaded, SeqLensError

# Statuses after which the same request may do better elsewhere or later.
_UNSETTLED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
}


def deadline(timeout: float | None, default: float) -> float | None:
    """Seconds for gRPC: ``timeout`` or the default; None, no deadline, for infinity."""
    seconds = default if timeout is None else timeout
    return None if math.isinf(seconds) else seconds


class TimeLeft:
    """What is left of the time that a call may take, all its attempts together."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def seconds(self) -> float | None:
        """None: no limit. Never below zero: gRPC answers DEADLINE_EXCEEDED to zero."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def pause(error: SeqLensError, *, retries: int, seconds: float | None) -> float | None:
    """Seconds after which a call that failed with ``error`` is made again; None: it is not.

    Only a server that is overloaded and says when there is room is asked again, and only if
    that is within the time left. gRPC's own policy cannot do this: it would also repeat what
    is RESOURCE_EXHAUSTED for good, such as a message that is too large, and it sees neither
    the refusal of one sequence, which comes in an answer, nor requests beyond its buffer of
    256 KiB. A refusal among others of a list is not repeated: the others would be, too.
    """
    if not isinstance(error, Overloaded) or error.retry_after is None:
        return None
    if not retries or error.index is not None:
        return None
    too_late = seconds is not None and error.retry_after >= seconds
    return None if too_late else error.retry_after


def settles(code: grpc.StatusCode) -> bool:
    """Whether another attempt at the same request would end in the same way."""
    return code not in _UNSETTLED
