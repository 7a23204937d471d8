"""The queue's gauges, read at each scrape: pairs of inc and dec would leak on cancel."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from seqlens.metrics.observer import ModelLabels, QueueState

ReadQueue = Callable[[], QueueState]
EMPTY = QueueState(waiting_sequences=0, waiting_tokens=0, oldest_seconds=0.0, inflight_requests=0)


@dataclass(frozen=True, slots=True)
class _QueueGauge:
    name: str
    documentation: str
    read: Callable[[QueueState], float]


_GAUGES = (
    _QueueGauge("seqlens_queue_requests", "Sequences waiting now.", lambda s: s.waiting_sequences),
    _QueueGauge(
        "seqlens_queue_tokens", "Tokens waiting now: what to scale on.", lambda s: s.waiting_tokens
    ),
    _QueueGauge(
        "seqlens_queue_oldest_seconds", "Age of the oldest that waits.", lambda s: s.oldest_seconds
    ),
    _QueueGauge(
        "seqlens_inflight_requests", "Admitted and not answered yet.", lambda s: s.inflight_requests
    ),
)


class QueueCollector(Collector):
    """Asks every watched queue for its state; the queues of one model's versions are joined."""

    def __init__(self) -> None:
        self._readers: dict[ModelLabels, ReadQueue] = {}

    def watch(self, labels: ModelLabels, read: ReadQueue) -> None:
        """Read the gauges of this version from ``read``, in place of what was read before."""
        self._readers[labels] = read

    def expect(self, labels: ModelLabels) -> None:
        """Show an empty queue until this version's own is watched."""
        self._readers.setdefault(labels, lambda: EMPTY)

    def forget(self, labels: ModelLabels) -> None:
        """Show this version's queue no more."""
        self._readers.pop(labels, None)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without their series."""
        return _gauges({})

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with one series a model."""
        states: dict[str, QueueState] = {}
        # A copy made in one step: models come and go on another thread.
        for labels, read in self._readers.copy().items():
            states[labels.model] = _join(states.get(labels.model, EMPTY), read())
        return _gauges(states)


def _join(one: QueueState, other: QueueState) -> QueueState:
    return QueueState(
        waiting_sequences=one.waiting_sequences + other.waiting_sequences,
        waiting_tokens=one.waiting_tokens + other.waiting_tokens,
        oldest_seconds=max(one.oldest_seconds, other.oldest_seconds),
        inflight_requests=one.inflight_requests + other.inflight_requests,
    )


def _gauges(states: Mapping[str, QueueState]) -> list[GaugeMetricFamily]:
    families = []
    for gauge in _GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.documentation, labels=["model"])
        for model, state in states.items():
            family.add_metric([model], gauge.read(state))
        families.append(family)
    return families
