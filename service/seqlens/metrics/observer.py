"""The events that the rest of the server reports. Work code says what happened, no more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from msgspec import Struct

from seqlens.graphs.anatomy import Architecture

Stage = Literal["decode", "queue", "batch", "compute", "encode"]
# Calls that look inside a model; their times are told apart from those of plain requests.
InsightMethod = Literal["attention", "influence", "gates"]
Method = Literal["infer", "batch", "stream", InsightMethod]
INSIGHT_METHODS: tuple[InsightMethod, ...] = get_args(InsightMethod)
Trigger = Literal["full", "budget", "idle"]
RejectReason = Literal["queue_full", "too_long", "too_large", "draining"]
CancelCause = Literal["client", "deadline"]
LoadResult = Literal["ok", "failed", "verification_failed"]


# Looked up by every event: as a struct that keeps its hash this costs next to nothing.
class ModelLabels(Struct, frozen=True, cache_hash=True):
    """The labels that one version of a model carries on its series."""

    model: str
    version: str
    architecture: Architecture


# Stands for every model that is not served, so that callers cannot create series.
UNKNOWN_MODEL = ModelLabels("_unknown", "", Architecture.OTHER)


class BatchSeconds(Struct, frozen=True):
    """The lane's time for one execution of a model."""

    build: float  # sequences to the model's inputs
    compute: float  # the model itself
    take_apart: float  # the model's outputs to answers

    @property
    def all(self) -> float:
        """Altogether."""
        return self.build + self.compute + self.take_apart


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits and runs for one model, read when metrics are scraped."""

    waiting_sequences: int
    waiting_tokens: int
    oldest_seconds: float
    inflight_requests: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading a model gave."""

    backend: str
    device: str
    precision: str
    opset: str
    invariance_error: float | None  # batched = alone, largest absolute difference
    phase_seconds: dict[str, float]  # read, inspect, verify, attention, warmup


class Observer(Protocol):
    """Receives events. Every method is cheap and never raises.

    Methods may be called from the event loop's thread and from the lanes' threads.
    Requests for models that are not served arrive under ``UNKNOWN_MODEL``.
    """

    def request_finished(
        self,
        labels: ModelLabels,
        *,
        protocol: Literal["grpc", "rest"],
        method: Method,
        code: str,
        length: int | None,
        seconds: float,
    ) -> None:
        """One request was answered; ``length`` is that of its longest sequence."""

    def message_converted(
        self,
        labels: ModelLabels,
        *,
        length: int | None,
        decode_seconds: float,
        encode_seconds: float,
    ) -> None:
        """A request that succeeded was read from its message, and its answer was written."""

    def sequences_ran(
        self,
        labels: ModelLabels,
        *,
        lengths: Sequence[int | None],
        queue_seconds: Sequence[float],
        spent: BatchSeconds,
    ) -> None:
        """The sequences of one execution went through the queue, the batch and the model."""

    def sequences_finished(self, labels: ModelLabels, *, lengths: Sequence[int | None]) -> None:
        """Sequences were answered, those of one execution at once."""

    def batch_finished(
        self,
        labels: ModelLabels,
        *,
        lane: int,
        sequences: int,
        real_tokens: int,
        padding_tokens: int,
        trigger: Trigger,
        spent: BatchSeconds,
    ) -> None:
        """One execution of the model ended."""

    def maps_drawn(self, labels: ModelLabels, *, size: int) -> None:
        """Attention weights of so many bytes were drawn for a caller."""

    def rejected(self, labels: ModelLabels, *, reason: RejectReason) -> None:
        """A sequence was refused before any work."""

    def cancelled(
        self, labels: ModelLabels, *, stage: Literal["queue", "compute"], cause: CancelCause
    ) -> None:
        """A sequence's caller left; ``stage`` says how far it had got."""

    def model_loaded(self, labels: ModelLabels, report: LoadReport) -> None:
        """A version is ready: its series appear, at zero."""

    def model_load_failed(self, model: str, *, result: LoadResult) -> None:
        """A version could not be loaded."""

    def model_unloaded(self, labels: ModelLabels) -> None:
        """A version is gone: its series disappear."""

    def watch_queue(self, labels: ModelLabels, read: Callable[[], QueueState]) -> None:
        """Read the queue's gauges from ``read`` at each scrape."""

    def watch_insight(self, read: Callable[[], int]) -> None:
        """Read the number of requests that wait to look inside models at each scrape."""

    def lane_restarted(self, lane: int) -> None:
        """A lane's thread failed and was started again."""
