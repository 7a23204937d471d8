"""The observer that turns events into Prometheus series."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry

from seqlens.metrics.families import Families
from seqlens.metrics.ledger import OwnedSeries, SeriesLedger
from seqlens.metrics.lengths import LengthRanges
from seqlens.metrics.observer import (
    INSIGHT_METHODS,
    UNKNOWN_MODEL,
    BatchSeconds,
    CancelCause,
    LoadReport,
    LoadResult,
    Method,
    ModelLabels,
    QueueState,
    RejectReason,
    Trigger,
)
from seqlens.metrics.queues import QueueCollector
from seqlens.metrics.series import ModelSeries, RefusalSeries, RequestSeries


class PrometheusObserver:
    """Feeds the metric families on one registry. Safe to use from any thread.

    The series of a version appear at ``model_loaded`` and go at ``model_unloaded``; the two come
    in pairs, so a version that is loaded anew before the old one is unloaded keeps its series.
    Requests for what is not loaded are counted under the model ``_unknown``, so that callers
    cannot create series; other events about it are dropped.

    Parameters
    ----------
    registry
        Where the families are registered.
    length_buckets
        Upper bounds of the length ranges, in tokens; see ``LengthRanges``.
    lanes
        Number of lanes, whose series appear at zero.
    max_sequence_length
        Longest sequence served, in tokens.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        length_buckets: Sequence[int],
        *,
        lanes: int = 1,
        max_sequence_length: int = 4_096,
    ) -> None:
        self._ranges = LengthRanges(length_buckets)
        self._families = Families(registry, max_sequence_length=max_sequence_length)
        self._queues = QueueCollector()
        registry.register(self._queues)
        self._ledger = SeriesLedger()
        self._workers = tuple(str(lane) for lane in range(lanes))
        for worker in self._workers:
            self._families.batches.restarts.labels(worker)
        unknown = OwnedSeries(self._ledger)
        self._unknown_requests = RequestSeries(self._families, unknown, UNKNOWN_MODEL)
        self._unknown_refusals = RefusalSeries(self._families, unknown, UNKNOWN_MODEL.model)
        # What events look up; a version that replaces its equal stands here alone.
        self._current: dict[ModelLabels, ModelSeries] = {}
        self._loaded: dict[ModelLabels, list[ModelSeries]] = {}
        self._lock = threading.Lock()

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
        """Count the request, and time it if it succeeded."""
        series = self._current.get(labels)
        if series is None:
            self._unknown_requests.count(protocol, method, code)
            return
        series.requests.count(protocol, method, code)
        if code != "OK":
            return
        span = self._ranges.label(length)
        if method in INSIGHT_METHODS:
            series.insight.durations[method, span].observe(seconds)
        else:
            series.work.durations[span].observe(seconds)

    def message_converted(
        self,
        labels: ModelLabels,
        *,
        length: int | None,
        decode_seconds: float,
        encode_seconds: float,
    ) -> None:
        """Time the stages at both ends of a request."""
        if series := self._current.get(labels):
            span = self._ranges.label(length)
            series.work.stages["decode", span].observe(decode_seconds)
            series.work.stages["encode", span].observe(encode_seconds)

    def sequences_ran(
        self,
        labels: ModelLabels,
        *,
        lengths: Sequence[int | None],
        queue_seconds: Sequence[float],
        spent: BatchSeconds,
    ) -> None:
        """Time the stages of each sequence, all those of one range of lengths in one step."""
        series = self._current.get(labels)
        if series is None:
            return
        queued: defaultdict[str, list[float]] = defaultdict(list)
        for length, seconds in zip(lengths, queue_seconds, strict=True):
            queued[self._ranges.label(length)].append(seconds)
        stages = series.work.stages
        for span, waits in queued.items():
            stages["queue", span].observe_all(waits)
            stages["batch", span].observe_repeatedly(spent.build, len(waits))
            stages["compute", span].observe_repeatedly(spent.compute, len(waits))

    def sequences_finished(self, labels: ModelLabels, *, lengths: Sequence[int | None]) -> None:
        """Count the sequences under their ranges of lengths."""
        series = self._current.get(labels)
        if series is None:
            return
        counts: defaultdict[str, int] = defaultdict(int)
        for length in lengths:
            counts[self._ranges.label(length)] += 1
        for span, count in counts.items():
            series.work.sequences[span].inc(count)
        series.work.lengths.observe_all([length for length in lengths if length is not None])

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
        """Count the execution, its sequences and positions, and the lane's time."""
        series = self._current.get(labels)
        if series is None:
            return
        work = series.work
        work.batches[trigger].inc()
        work.batch_sequences.observe(sequences)
        work.batch_positions.observe(real_tokens + padding_tokens)
        work.real_tokens.inc(real_tokens)
        work.padding_tokens.inc(padding_tokens)
        work.busy_seconds[str(lane)].inc(spent.all)

    def maps_drawn(self, labels: ModelLabels, *, size: int) -> None:
        """Count the bytes."""
        if series := self._current.get(labels):
            series.insight.attention_bytes.inc(size)

    def rejected(self, labels: ModelLabels, *, reason: RejectReason) -> None:
        """Count the refusal."""
        series = self._current.get(labels)
        refusals = series.refusals if series else self._unknown_refusals
        refusals.rejected[reason].inc()

    def cancelled(
        self, labels: ModelLabels, *, stage: Literal["queue", "compute"], cause: CancelCause
    ) -> None:
        """Count the sequence that was given up."""
        if series := self._current.get(labels):
            series.refusals.cancelled[stage, cause].inc()

    def model_loaded(self, labels: ModelLabels, report: LoadReport) -> None:
        """Show the version's series, at zero unless an equal version is there already."""
        series = ModelSeries(self._families, self._ledger, labels, self._ranges, self._workers)
        series.describe(report)
        with self._lock:
            self._loaded.setdefault(labels, []).append(series)
            self._current[labels] = series
            self._queues.expect(labels)

    def model_load_failed(self, model: str, *, result: LoadResult) -> None:
        """Count the attempt. Its series stays until the model is loaded and unloaded again."""
        self._families.models.loads.labels(model, result).inc()

    def model_unloaded(self, labels: ModelLabels) -> None:
        """Remove the version's series, the queue's included, unless its successor uses them."""
        with self._lock:
            loaded = self._loaded.get(labels, [])
            gone = loaded[:1]
            del loaded[:1]
            if not loaded:
                self._loaded.pop(labels, None)
                self._current.pop(labels, None)
                self._queues.forget(labels)
        for series in gone:
            series.release()

    def watch_queue(self, labels: ModelLabels, read: Callable[[], QueueState]) -> None:
        """Read the queue's gauges from ``read`` at each scrape."""
        self._queues.watch(labels, read)

    def watch_insight(self, read: Callable[[], int]) -> None:
        """Read the gauge from ``read`` at each scrape."""
        self._families.insight.waiting.set_function(read)

    def lane_restarted(self, lane: int) -> None:
        """Count the restart."""
        self._families.batches.restarts.labels(str(lane)).inc()
