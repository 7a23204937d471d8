"""Counts since a model was loaded."""

from seqlens.api.requests import Timings
from seqlens.api.statistics import Statistics
from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import LoadReport, ModelLabels

LABELS = ModelLabels("m", "1", Architecture.LSTM)
REPORT = LoadReport("onnxruntime", "cpu", "fp32", "17", 0.0, {})


def finish(statistics: Statistics, code: str) -> None:
    statistics.request_finished(
        LABELS, protocol="grpc", method="infer", code=code, length=3, seconds=0.5
    )


def batch(statistics: Statistics, sequences: int) -> None:
    statistics.batch_finished(
        LABELS,
        lane=0,
        sequences=sequences,
        real_tokens=9,
        padding_tokens=0,
        trigger="idle",
        seconds=0.25,
    )


def test_rows_executions_and_outcomes_are_counted_apart() -> None:
    statistics = Statistics()
    statistics.model_loaded(LABELS, REPORT)
    finish(statistics, "OK")
    statistics.answered(LABELS, 3, Timings(queue_seconds=0.1, compute_seconds=0.2))
    finish(statistics, "CANCELLED")
    for size in (2, 1, 2):
        batch(statistics, size)
    counts = statistics.of(LABELS)
    assert (counts.success.count, counts.fail.count) == (1, 1)
    assert (counts.sequences, counts.executions) == (3, 3)
    assert {size: one.count for size, one in counts.batches.items()} == {1: 1, 2: 2}
    assert counts.compute.seconds == 0.2


def test_a_load_starts_from_zero_and_unknown_models_are_not_kept() -> None:
    statistics = Statistics()
    finish(statistics, "OK")
    assert statistics.of(LABELS).success.count == 0
    statistics.model_loaded(LABELS, REPORT)
    finish(statistics, "OK")
    statistics.model_loaded(LABELS, REPORT)
    assert statistics.of(LABELS).success.count == 0
