"""What is noted about a request from its arrival to its answer, whatever its protocol."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from seqlens.api.request_log import RequestLog
from seqlens.api.requests import Timings
from seqlens.api.statistics import Statistics
from seqlens.api.tracing import Tracing
from seqlens.errors import MessageTooLarge, SeqLensError, SequenceTooLong
from seqlens.metrics.observer import INSIGHT_METHODS, UNKNOWN_MODEL, Method, ModelLabels, Observer
from seqlens.sequences import SequenceAnswer

Protocol = Literal["grpc", "rest"]


@dataclass(slots=True)
class Call:
    """Notes about one request, filled in while it is served."""

    labels: ModelLabels = UNKNOWN_MODEL
    id: str = ""  # that the caller gave
    longest: int | None = None  # positions of its longest sequence; None: no time axis
    sequences: int = 0  # answered
    code: str = "OK"  # with which it ends
    method: Method | None = None  # what it turned out to be; None: as its RPC or route says
    timings: Timings = field(default_factory=Timings)

    def decoding(self) -> "_Timed":
        """Time what makes plain values of a message."""
        return _Timed(self.timings, "decode_seconds")

    def encoding(self) -> "_Timed":
        """Time what makes a message of plain values."""
        return _Timed(self.timings, "encode_seconds")

    def answered(self, answers: Sequence[SequenceAnswer]) -> None:
        """Note what the answers tell."""
        self.sequences = len(answers)
        if answers:
            self.longest = max(answer.length for answer in answers) or None
            # One sequence for all parts: the longest of each would add up to more than it took.
            slowest = max(answers, key=_seconds)
            self.timings.queue_seconds = slowest.queue_seconds
            self.timings.build_seconds = slowest.build_seconds
            self.timings.compute_seconds = slowest.compute_seconds


class _Timed:
    """Notes how long its block took if it ended well; a generator would cost four times as much."""

    __slots__ = ("_part", "_start", "_timings")

    def __init__(self, timings: Timings, part: str) -> None:
        self._timings, self._part = timings, part

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            setattr(self._timings, self._part, time.perf_counter() - self._start)


class Calls:
    """Reports every request once, with its outcome."""

    def __init__(
        self, observer: Observer, statistics: Statistics, log: RequestLog, tracing: Tracing
    ) -> None:
        self._observer = observer
        self._statistics = statistics
        self._log, self._tracing = log, tracing
        self._begun = self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """A call, or a whole stream of them, is in progress."""
        self._begin()
        try:
            yield
        finally:
            self._end()

    async def quiet(self, seconds: float, at_most: float) -> None:
        """Wait until no call has begun for ``seconds``, but not longer than ``at_most``."""
        begun, end = -1, time.monotonic() + at_most
        while begun != self._begun and time.monotonic() < end:
            begun = self._begun
            await asyncio.sleep(min(seconds, at_most))

    async def idle(self) -> None:
        """Wait until nothing is in progress."""
        await self._idle.wait()

    @contextmanager
    def watch(
        self, protocol: Protocol, method: Method, why_left: Callable[[], str]
    ) -> Iterator[Call]:
        """Time what is done inside and report how it ended.

        ``why_left`` gives the code of a request that was cancelled: CANCELLED, or
        DEADLINE_EXCEEDED where it was the caller's own deadline.
        """
        call, start = Call(), time.perf_counter()
        self._begin()
        try:
            yield call
        except (asyncio.CancelledError, GeneratorExit):  # the latter where an answer is a stream
            call.code = why_left()
            raise
        except SeqLensError as error:
            call.code = error.grpc_code
            self.refused(call.labels, error)
            raise
        except BaseException:
            call.code = "INTERNAL"
            raise
        finally:
            self._end()
            seconds = time.perf_counter() - start
            self.report(call, protocol, call.method or method, call.code, seconds)

    def report(
        self, call: Call, protocol: Protocol, method: Method, code: str, seconds: float
    ) -> None:
        """Report one request that ended with ``code`` after ``seconds``."""
        self._observer.request_finished(
            call.labels,
            protocol=protocol,
            method=method,
            code=code,
            length=call.longest,
            seconds=seconds,
        )
        if code == "OK" and method not in INSIGHT_METHODS:
            self._report_answer(call)
        if self._log.on:
            self._log.request_finished(
                call.labels,
                protocol=protocol,
                method=method,
                code=code,
                length=call.longest,
                seconds=seconds,
            )
        if self._tracing.on and call.labels is not UNKNOWN_MODEL:
            timings = call.timings if code == "OK" else None
            self._tracing.finished(call.labels, call.id, timings, seconds)

    def note(self, call: Call, outcomes: Sequence[SequenceAnswer | SeqLensError]) -> None:
        """Note how the sequences of a request ended, each by itself.

        A request with no answer to any of them is one that failed, though the message that
        tells so for each is fine.
        """
        call.answered([one for one in outcomes if isinstance(one, SequenceAnswer)])
        errors = [one for one in outcomes if isinstance(one, SeqLensError)]
        for error in errors:
            self.refused(call.labels, error)
        if errors and not call.sequences:
            call.code = errors[0].grpc_code

    def refused(self, labels: ModelLabels, error: SeqLensError) -> None:
        """Count what was refused for its length or size; queues count their own refusals."""
        if isinstance(error, SequenceTooLong):
            self._observer.rejected(labels, reason="too_long")
        elif isinstance(error, MessageTooLarge):
            self._observer.rejected(labels, reason="too_large")

    def _report_answer(self, call: Call) -> None:
        timings = call.timings
        self._observer.message_converted(
            call.labels,
            length=call.longest,
            decode_seconds=timings.decode_seconds,
            encode_seconds=timings.encode_seconds,
        )
        self._statistics.answered(call.labels, call.sequences, timings)

    def _begin(self) -> None:
        self._begun += 1
        self._running += 1
        self._idle.clear()

    def _end(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()


def _seconds(answer: SequenceAnswer) -> float:
    return answer.queue_seconds + answer.build_seconds + answer.compute_seconds
