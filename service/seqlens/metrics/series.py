"""The series of one loaded version, resolved once, so that an event costs a look-up."""

from collections.abc import Iterable
from itertools import product
from typing import get_args

from prometheus_client import Counter

from seqlens.errors import SeqLensError
from seqlens.metrics.families import Families
from seqlens.metrics.histogram import Histogram
from seqlens.metrics.ledger import Children, OwnedSeries, SeriesLedger
from seqlens.metrics.lengths import LengthRanges
from seqlens.metrics.observer import (
    INSIGHT_METHODS,
    CancelCause,
    LoadReport,
    LoadResult,
    Method,
    ModelLabels,
    RejectReason,
    Stage,
    Trigger,
)

PROTOCOLS = ("grpc", "rest")
# Calls that look inside models are rare: their series appear with the first of them.
PLAIN_METHODS = tuple(one for one in get_args(Method) if one not in INSIGHT_METHODS)
CANCEL_STAGES = ("queue", "compute")


def _codes(error: type[SeqLensError]) -> set[str]:
    return {error.grpc_code}.union(*map(_codes, error.__subclasses__()))


# What requests can end with: the codes of the tree of errors, and the two ends that are no error.
CODES = frozenset({"OK", "CANCELLED"} | _codes(SeqLensError))


class RequestSeries:
    """Requests of one version by protocol, method and code."""

    def __init__(self, families: Families, owned: OwnedSeries, labels: ModelLabels) -> None:
        named = (labels.model, labels.version, labels.architecture.value)

        def request(key: tuple[str, str, str]) -> Counter:
            return owned.take(families.requests.requests, *named, *key)

        self._requests = Children(request, product(PROTOCOLS, PLAIN_METHODS, CODES))

    def count(self, protocol: str, method: str, code: str) -> None:
        """One request ended; a code that no error of ours has is counted as UNKNOWN."""
        known = code if code in CODES else "UNKNOWN"
        self._requests[protocol, method, known].inc()


class WorkSeries:
    """What was done for one version; the lengths are already told by range."""

    def __init__(
        self,
        families: Families,
        owned: OwnedSeries,
        labels: ModelLabels,
        ranges: LengthRanges,
        workers: Iterable[str],
    ) -> None:
        requests, batches, take = families.requests, families.batches, owned.take
        model, architecture = labels.model, labels.architecture.value
        self.durations = Children(
            lambda span: take(requests.duration, model, architecture, span), ranges.labels
        )
        self.stages = Children(
            lambda key: take(requests.stages, model, architecture, *key),
            product(get_args(Stage), ranges.labels),
        )
        self.sequences = Children(
            lambda span: take(requests.sequences, model, architecture, span), ranges.labels
        )
        self.lengths = take(requests.lengths, model)
        self.real_tokens = take(batches.tokens, model, architecture, "real")
        self.padding_tokens = take(batches.tokens, model, architecture, "padding")
        self.batch_sequences = take(batches.sequences, model)
        self.batch_positions = take(batches.positions, model)
        self.batches = Children(
            lambda trigger: take(batches.batches, model, trigger), get_args(Trigger)
        )
        self.busy_seconds = Children(
            lambda worker: take(batches.busy_seconds, model, worker), workers
        )


class InsightSeries:
    """What was done to look inside one version."""

    def __init__(self, families: Families, owned: OwnedSeries, labels: ModelLabels) -> None:
        insight, take = families.insight, owned.take
        model, architecture = labels.model, labels.architecture.value
        self.durations: Children[tuple[str, str], Histogram] = Children(
            lambda key: take(insight.duration, model, architecture, *key), ()
        )
        self.attention_bytes = take(insight.attention_bytes, model)


class RefusalSeries:
    """Sequences of one model that were refused or given up."""

    def __init__(self, families: Families, owned: OwnedSeries, model: str) -> None:
        refusals, take = families.refusals, owned.take
        self.rejected = Children(
            lambda reason: take(refusals.rejected, model, reason), get_args(RejectReason)
        )
        self.cancelled = Children(
            lambda key: take(refusals.cancelled, model, *key),
            product(CANCEL_STAGES, get_args(CancelCause)),
        )


class ModelSeries:
    """All series of one loaded version."""

    def __init__(
        self,
        families: Families,
        ledger: SeriesLedger,
        labels: ModelLabels,
        ranges: LengthRanges,
        workers: Iterable[str],
    ) -> None:
        self._owned = OwnedSeries(ledger)
        self.requests = RequestSeries(families, self._owned, labels)
        self.work = WorkSeries(families, self._owned, labels, ranges, workers)
        self.insight = InsightSeries(families, self._owned, labels)
        self.refusals = RefusalSeries(families, self._owned, labels.model)
        self._models = families.models
        self._labels = labels

    def describe(self, report: LoadReport) -> None:
        """Publish what loading this version gave."""
        models, take = self._models, self._owned.take
        version = (self._labels.model, self._labels.version)
        take(models.ready, *version).set(1)
        facts = (report.backend, report.device, report.precision, report.opset)
        take(models.info, *version, self._labels.architecture.value, *facts).set(1)
        for phase, seconds in report.phase_seconds.items():
            take(models.load_seconds, *version, phase).set(seconds)
        if report.invariance_error is not None:
            take(models.invariance_error, *version).set(report.invariance_error)
        loads = {result: take(models.loads, version[0], result) for result in get_args(LoadResult)}
        loads["ok"].inc()

    def release(self) -> None:
        """Show the series of this version no more."""
        self._owned.release()
