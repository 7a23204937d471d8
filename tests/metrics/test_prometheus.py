"""What a scrape shows after each event, from first load to last unload."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import BatchSeconds, LoadReport, ModelLabels, QueueState
from seqlens.metrics.prometheus import PrometheusObserver

LookUp = Callable[[], Any]


def finish(observer: PrometheusObserver, labels: ModelLabels, **changes: Any) -> None:
    request = {"protocol": "grpc", "method": "infer", "code": "OK", "length": 20, "seconds": 0.003}
    observer.request_finished(labels, **(request | changes))


def run_batch(observer: PrometheusObserver, labels: ModelLabels, **changes: Any) -> None:
    batch = {
        "lane": 1, "sequences": 3, "real_tokens": 50, "padding_tokens": 10,
        "trigger": "idle", "spent": BatchSeconds(0.05, 0.15, 0.05),
    }  # fmt: skip
    observer.batch_finished(labels, **(batch | changes))


def test_loading_a_model_shows_its_series_at_zero(
    loaded: PrometheusObserver, scrape: LookUp
) -> None:
    shown = scrape()
    silent = {
        "seqlens_requests_total": 2 * 3 * 13,  # protocols, methods, codes
        "seqlens_request_duration_seconds_count": 4,  # ranges
        "seqlens_stage_duration_seconds_count": 5 * 4,
        "seqlens_sequences_total": 4,
        "seqlens_sequence_length_tokens_count": 1,
        "seqlens_tokens_total": 2,
        "seqlens_batch_size_sequences_count": 1,
        "seqlens_batch_tokens_count": 1,
        "seqlens_batches_total": 3,
        "seqlens_worker_busy_seconds_total": 2,
        "seqlens_queue_requests": 1,
        "seqlens_queue_tokens": 1,
        "seqlens_queue_oldest_seconds": 1,
        "seqlens_inflight_requests": 1,
        "seqlens_rejected_total": 4,
        "seqlens_cancelled_total": 4,
    }
    for name, count in silent.items():
        assert [s.value for s in shown.find(name, model="kitten")] == [0.0] * count, name


def test_loading_a_model_publishes_what_was_found(
    loaded: PrometheusObserver, scrape: LookUp
) -> None:
    shown = scrape()
    (info,) = shown.find("seqlens_model_info")
    assert info.labels == {
        "model": "kitten", "version": "1", "architecture": "lstm", "backend": "onnxruntime",
        "device": "cpu", "precision": "fp32", "opset": "17",
    }  # fmt: skip
    assert shown.value("seqlens_model_ready", model="kitten", version="1") == 1
    assert shown.value("seqlens_batch_invariance_max_abs_error", model="kitten") == 2.5e-7
    assert shown.value("seqlens_model_load_duration_seconds", phase="verify") == 0.3
    assert shown.value("seqlens_model_loads_total", model="kitten", result="ok") == 1
    assert shown.value("seqlens_model_loads_total", model="kitten", result="failed") == 0


def test_a_model_without_a_proof_has_no_invariance_series(
    observer: PrometheusObserver, lstm: ModelLabels, report: LoadReport, scrape: LookUp
) -> None:
    observer.model_loaded(lstm, replace(report, invariance_error=None))
    assert not scrape().find("seqlens_batch_invariance_max_abs_error")


def test_requests_are_counted_and_only_successes_timed(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    finish(loaded, lstm, length=20, seconds=0.003)
    finish(loaded, lstm, code="INVALID_ARGUMENT", length=20, seconds=9.0)
    shown = scrape()
    everything = {"model": "kitten", "version": "1", "architecture": "lstm", "protocol": "grpc"}
    assert shown.value("seqlens_requests_total", **everything, method="infer", code="OK") == 1
    assert shown.value("seqlens_requests_total", code="INVALID_ARGUMENT", method="infer",
                       protocol="grpc", model="kitten") == 1  # fmt: skip
    timed = {"model": "kitten", "architecture": "lstm", "length_bucket": "17-32"}
    assert shown.value("seqlens_request_duration_seconds_count", **timed) == 1
    assert shown.value("seqlens_request_duration_seconds_bucket", **timed, le="0.002") == 0
    assert shown.value("seqlens_request_duration_seconds_bucket", **timed, le="0.004") == 1


def test_latency_bounds_double_from_half_a_millisecond(
    loaded: PrometheusObserver, scrape: LookUp
) -> None:
    bounds = [
        float(sample.labels["le"])
        for sample in scrape().find("seqlens_request_duration_seconds_bucket", length_bucket="1-16")
    ]
    assert bounds == pytest.approx([0.0005 * 2**n for n in range(16)] + [float("inf")])


def test_stages_and_sequences_go_under_their_range(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    loaded.message_converted(lstm, length=65, decode_seconds=0.25, encode_seconds=0.75)
    loaded.sequences_ran(
        lstm,
        lengths=[65, 3, 70, None],
        queue_seconds=[0.5, 0.125, 1.0, 0.0],
        spent=BatchSeconds(build=0.25, compute=2.0, take_apart=0.0),
    )
    loaded.sequences_finished(lstm, lengths=[65])
    loaded.sequences_finished(lstm, lengths=[None])
    shown = scrape()

    def seconds(stage: str, span: str) -> tuple[float, float]:
        labels = {"model": "kitten", "architecture": "lstm", "stage": stage, "length_bucket": span}
        name = "seqlens_stage_duration_seconds"
        return shown.value(f"{name}_sum", **labels), shown.value(f"{name}_count", **labels)

    assert seconds("decode", "65+") == (0.25, 1)
    assert seconds("encode", "65+") == (0.75, 1)
    assert seconds("queue", "65+") == (1.5, 2)
    assert seconds("batch", "65+") == (0.5, 2)
    assert seconds("compute", "65+") == (4.0, 2)
    assert seconds("compute", "1-16") == (2.0, 1)
    assert seconds("queue", "none") == (0.0, 1)
    assert shown.value("seqlens_sequences_total", length_bucket="65+") == 1
    assert shown.value("seqlens_sequences_total", length_bucket="none") == 1
    assert shown.value("seqlens_sequence_length_tokens_sum", model="kitten") == 65


def test_an_execution_tells_tokens_padding_size_trigger_and_lane(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    run_batch(loaded, lstm)
    shown = scrape()
    assert shown.value("seqlens_tokens_total", kind="real", architecture="lstm") == 50
    assert shown.value("seqlens_tokens_total", kind="padding", architecture="lstm") == 10
    assert shown.value("seqlens_batch_size_sequences_sum", model="kitten") == 3
    assert shown.value("seqlens_batch_tokens_sum", model="kitten") == 60
    assert shown.value("seqlens_batches_total", trigger="idle", model="kitten") == 1
    assert shown.value("seqlens_worker_busy_seconds_total", worker="1", model="kitten") == 0.25


def test_refusals_cancels_and_restarts_are_counted_by_reason(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    loaded.rejected(lstm, reason="queue_full")
    loaded.cancelled(lstm, stage="compute", cause="deadline")
    loaded.lane_restarted(1)
    loaded.model_load_failed("broken", result="verification_failed")
    shown = scrape()
    assert shown.value("seqlens_rejected_total", model="kitten", reason="queue_full") == 1
    assert (
        shown.value("seqlens_cancelled_total", model="kitten", cause="deadline", stage="compute")
        == 1
    )
    assert shown.value("seqlens_worker_restarts_total", worker="1") == 1
    assert shown.value("seqlens_worker_restarts_total", worker="0") == 0
    failed = {"model": "broken", "result": "verification_failed"}
    assert shown.value("seqlens_model_loads_total", **failed) == 1


def test_queue_gauges_are_read_at_the_scrape_and_versions_joined(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    waiting = [QueueState(2, 300, 0.5, 4)]
    loaded.watch_queue(lstm, lambda: waiting[-1])
    loaded.watch_queue(
        ModelLabels("kitten", "2", lstm.architecture), lambda: QueueState(1, 20, 0.25, 1)
    )
    assert scrape().value("seqlens_queue_tokens", model="kitten") == 320
    waiting.append(QueueState(0, 0, 0.0, 0))
    shown = scrape()
    assert shown.value("seqlens_queue_requests", model="kitten") == 1
    assert shown.value("seqlens_queue_oldest_seconds", model="kitten") == 0.25
    assert shown.value("seqlens_inflight_requests", model="kitten") == 1


def test_unloading_removes_every_series_of_the_model(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    loaded.watch_queue(lstm, lambda: QueueState(1, 1, 1.0, 1))
    finish(loaded, lstm, code="DATA_LOSS", length=None)
    run_batch(loaded, lstm, lane=7)
    loaded.sequences_finished(lstm, lengths=[None])
    loaded.model_unloaded(lstm)
    assert scrape().find(model="kitten") == []


def test_events_after_the_unload_bring_no_series_back(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    loaded.model_unloaded(lstm)
    finish(loaded, lstm)
    run_batch(loaded, lstm)
    loaded.message_converted(lstm, length=3, decode_seconds=0.1, encode_seconds=0.1)
    loaded.sequences_finished(lstm, lengths=[3])
    loaded.cancelled(lstm, stage="queue", cause="client")
    assert scrape().find(model="kitten") == []


def test_a_version_that_replaces_its_equal_keeps_counting(
    loaded: PrometheusObserver, lstm: ModelLabels, report: LoadReport, scrape: LookUp
) -> None:
    finish(loaded, lstm)
    loaded.model_loaded(lstm, replace(report, device="cuda:0"))
    loaded.model_unloaded(lstm)
    finish(loaded, lstm)
    shown = scrape()
    assert shown.value("seqlens_requests_total", model="kitten", code="OK", method="infer",
                       protocol="grpc") == 2  # fmt: skip
    assert [s.labels["device"] for s in shown.find("seqlens_model_info")] == ["cuda:0"]


def test_two_versions_share_series_until_the_last_goes(
    loaded: PrometheusObserver, lstm: ModelLabels, report: LoadReport, scrape: LookUp
) -> None:
    second = ModelLabels("kitten", "2", Architecture.GRU)
    loaded.model_loaded(second, report)
    run_batch(loaded, lstm)
    loaded.model_unloaded(lstm)
    shown = scrape()
    assert shown.value("seqlens_batch_tokens_count", model="kitten") == 1
    assert {s.labels["architecture"] for s in shown.find("seqlens_tokens_total")} == {"gru"}
    loaded.model_unloaded(second)
    assert scrape().find(model="kitten") == []


def test_callers_cannot_make_series_with_names_of_their_own(
    observer: PrometheusObserver, scrape: LookUp
) -> None:
    for number in range(5):
        invented = ModelLabels(f"invented-{number}", "", Architecture.OTHER)
        finish(observer, invented, code="NOT_FOUND")
        observer.rejected(invented, reason="too_large")
    shown = scrape()
    assert {s.labels["model"] for s in shown.samples if "model" in s.labels} == {"_unknown"}
    assert shown.value("seqlens_requests_total", method="infer", code="NOT_FOUND",
                       protocol="grpc") == 5  # fmt: skip
    assert shown.value("seqlens_rejected_total", reason="too_large") == 5


def test_codes_outside_the_error_tree_are_counted_as_unknown(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    finish(loaded, lstm, code="ValueError: kitten 4711")
    assert scrape().value("seqlens_requests_total", code="UNKNOWN", model="kitten") == 1
    assert "ValueError" not in scrape().text


def test_no_length_of_a_request_becomes_a_label(
    loaded: PrometheusObserver, lstm: ModelLabels, scrape: LookUp
) -> None:
    before = len(scrape().samples)
    for length in range(0, 200, 7):
        finish(loaded, lstm, length=length)
        loaded.sequences_finished(lstm, lengths=[length])
        loaded.message_converted(lstm, length=length, decode_seconds=0.1, encode_seconds=0.1)
    shown = scrape()
    assert len(shown.samples) == before
    ranges = {s.labels["length_bucket"] for s in shown.samples if "length_bucket" in s.labels}
    assert ranges == {"1-16", "17-32", "33-64", "65+"}


def test_events_from_many_threads_are_all_counted(
    loaded: PrometheusObserver, registry: CollectorRegistry, lstm: ModelLabels,
    report: LoadReport, scrape: LookUp,
) -> None:  # fmt: skip
    def lane(number: int) -> None:
        other = ModelLabels(f"passing-{number}", "1", lstm.architecture)
        for _ in range(50):
            run_batch(loaded, lstm, lane=number)
            loaded.model_loaded(other, report)
            run_batch(loaded, other, lane=number)
            loaded.model_unloaded(other)
        generate_latest(registry)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lane, range(4)))
    shown = scrape()
    assert shown.value("seqlens_batches_total", model="kitten", trigger="idle") == 200
    assert {s.labels["model"] for s in shown.samples if "model" in s.labels} == {
        "kitten", "_unknown",
    }  # fmt: skip
