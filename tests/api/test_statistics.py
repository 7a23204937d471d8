"""Counts since a model was loaded."""

from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.calls import Call
from seqlens.api.requests import Timings
from seqlens.api.statistics import Statistics
from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import BatchSeconds, LoadReport, ModelLabels
from seqlens.sequences import SequenceAnswer

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
        spent=BatchSeconds(0.25, 1.0, 0.5),
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
    assert {size: one.compute.count for size, one in counts.batches.items()} == {1: 1, 2: 2}
    twos = counts.batches[2]
    assert (twos.build.seconds, twos.compute.seconds, twos.take_apart.seconds) == (0.5, 2.0, 1.0)
    assert counts.queue.seconds == 0.1
    assert counts.last_answer > 0


def test_a_version_that_is_loaded_again_counts_from_zero() -> None:
    statistics = Statistics()
    statistics.model_loaded(LABELS, REPORT)
    finish(statistics, "OK")
    statistics.model_loaded(LABELS, REPORT)
    assert statistics.of(LABELS).success.count == 0
    finish(statistics, "OK")
    statistics.model_unloaded(LABELS)  # the one that was replaced
    assert statistics.of(LABELS).success.count == 1
    statistics.model_unloaded(LABELS)
    finish(statistics, "OK")
    assert statistics.of(LABELS).success.count == 0


def test_what_is_not_loaded_is_not_counted() -> None:
    statistics = Statistics()
    finish(statistics, "NOT_FOUND")
    assert statistics.of(LABELS).fail.count == 0


SECONDS = st.floats(0, 10)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=5))
def test_the_parts_of_a_request_are_those_of_one_sequence(
    parts: list[tuple[float, float, float]],
) -> None:
    """The longest wait and the longest run of different sequences would add up to too much."""
    call = Call()
    call.answered([SequenceAnswer({}, 1, 1, 1, wait, run, made) for wait, made, run in parts])
    timings = call.timings
    told = (timings.queue_seconds, timings.build_seconds, timings.compute_seconds)
    assert told in parts
    assert sum(told) == max(map(sum, parts))
