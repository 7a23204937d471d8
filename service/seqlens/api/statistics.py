"""Counts and times since a model was loaded, as the statistics extension publishes them."""

import threading
import time
from collections import Counter as Multiset
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field

from seqlens.api.requests import Timings
from seqlens.metrics.observer import BatchSeconds, LoadReport, ModelLabels, Trigger


@dataclass(slots=True)
class Duration:
    """How often something happened and how long that took altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class BatchCounts:
    """What the executions of one batch size took."""

    build: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    take_apart: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelCounts:
    """What one version of a model has done since it was loaded.

    Only requests that succeeded count in the parts from ``queue`` to ``encode``. Those of a
    request are the parts of its slowest sequence, so that they never add up to more than the
    request took.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    build: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    encode: Duration = field(default_factory=Duration)
    sequences: int = 0
    executions: int = 0
    last_answer: float = 0.0  # seconds since the epoch
    batches: defaultdict[int, BatchCounts] = field(default_factory=lambda: defaultdict(BatchCounts))


class Statistics:
    """Listens to requests and batches. May be told from any thread."""

    def __init__(self) -> None:
        self._counts: dict[ModelLabels, ModelCounts] = {}
        self._loaded: Multiset[ModelLabels] = Multiset()  # two, while one replaces its equal
        self._lock = threading.Lock()

    def model_loaded(self, labels: ModelLabels, report: LoadReport) -> None:
        """A version is ready: it counts from zero."""
        with self._lock:
            self._loaded[labels] += 1
            self._counts[labels] = ModelCounts()

    def model_unloaded(self, labels: ModelLabels) -> None:
        """A version is gone, and its counts unless its successor goes on with them."""
        with self._lock:
            self._loaded[labels] -= 1
            if not self._loaded[labels]:
                del self._loaded[labels]
                self._counts.pop(labels, None)

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
        """Count one execution under its batch size."""
        with self._lock:
            if counts := self._counts.get(labels):
                counts.executions += 1
                batches = counts.batches[sequences]
                batches.build.add(spent.build)
                batches.compute.add(spent.compute)
                batches.take_apart.add(spent.take_apart)

    def request_finished(
        self,
        labels: ModelLabels,
        *,
        protocol: str,
        method: str,
        code: str,
        length: int | None,
        seconds: float,
    ) -> None:
        """Count a request by whether it succeeded."""
        with self._lock:
            if counts := self._counts.get(labels):
                (counts.success if code == "OK" else counts.fail).add(seconds)

    def answered(self, labels: ModelLabels, sequences: int, timings: Timings) -> None:
        """Add up where the time of a request that succeeded went."""
        with self._lock:
            if counts := self._counts.get(labels):
                counts.sequences += sequences
                counts.last_answer = time.time()
                counts.queue.add(timings.queue_seconds)
                counts.build.add(timings.build_seconds)
                counts.compute.add(timings.compute_seconds)
                counts.encode.add(timings.encode_seconds)

    def of(self, labels: ModelLabels) -> ModelCounts:
        """What a version has done so far; zeros if it is not known."""
        with self._lock:
            return deepcopy(self._counts.get(labels)) or ModelCounts()
