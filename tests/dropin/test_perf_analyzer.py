"""perf_analyzer measures the example models, and prints what our metrics say."""

import json
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import RunningServer
from tests.dropin.perf_analyzer import STAGES, PerfAnalyzer, perf_analyzer

from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.formats import FORMATS

MODELS = [f"{body}-{form}" for form in FORMATS for body in BODY_NAMES]
REQUESTS = 60
ONE_WINDOW = ("--request-count", str(REQUESTS))


@pytest.fixture(scope="session")
def analyzer() -> PerfAnalyzer:
    return perf_analyzer()


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest, server: RunningServer) -> list[str]:
    """Options that reach the shared server by gRPC, then by REST."""
    address = server.grpc if request.param == "grpc" else server.rest
    return ["-i", request.param, "-u", address]


def data(folder: Path, *steps: dict[str, object]) -> str:
    """A file of requests, which are sent in turns."""
    path = folder / "data.json"
    path.write_text(json.dumps({"data": steps}))
    return str(path)


def stages(server: RunningServer, model: str) -> dict[str, tuple[int, float]]:
    """How often each stage of the model was timed, and its seconds altogether."""
    with urlopen(f"http://{server.metrics}/metrics") as answer:
        text = answer.read().decode()
    counts, seconds = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            stage = sample.labels.get("stage", "")
            if sample.labels.get("model") != model or stage not in STAGES:
                continue
            if sample.name == "seqlens_stage_duration_seconds_count":
                counts[stage] += int(sample.value)
            elif sample.name == "seqlens_stage_duration_seconds_sum":
                seconds[stage] += sample.value
    return {stage: (counts[stage], seconds[stage]) for stage in STAGES}


def test_queue_and_compute_are_those_of_the_metrics(
    analyzer: PerfAnalyzer, server: RunningServer, wire: list[str], tmp_path: Path
) -> None:
    sent = data(tmp_path, {"tokens": [5] * 1_000})
    asked = ("-m", "lstm-onnx", *wire, "--shape", "tokens:1000", "--input-data", sent, *ONE_WINDOW)
    # Its load begins before it asks for the statistics, so that a first request that is answered
    # very quickly escapes it. Long ones do so rarely.
    for _ in range(5):
        before = stages(server, "lstm-onnx")
        [measured] = analyzer.run(tmp_path / "report.csv", *asked)
        after = stages(server, "lstm-onnx")
        if measured.requests == REQUESTS:
            break
    assert measured.requests == measured.sequences == REQUESTS
    for stage in STAGES:
        count, seconds = (new - old for new, old in zip(after[stage], before[stage], strict=True))
        assert count == REQUESTS
        # It rounds down, after what the server has rounded to nanoseconds.
        assert measured.microseconds[stage] == pytest.approx(seconds * 1e6 / count, abs=1.01)
    assert measured.microseconds["compute"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_measured(
    model: str, analyzer: PerfAnalyzer, server: RunningServer, tmp_path: Path
) -> None:
    sent = data(
        tmp_path, *({"tokens": {"content": [5] * size, "shape": [size]}} for size in (3, 40))
    )
    found = analyzer.run(
        tmp_path / "report.csv",
        *("-m", model, "-i", "grpc", "-u", server.grpc, "--input-data", sent, *ONE_WINDOW),
    )
    assert [one.per_second > 0 for one in found] == [True]


def test_several_concurrencies_are_measured(
    analyzer: PerfAnalyzer, wire: list[str], tmp_path: Path
) -> None:
    found = analyzer.run(
        tmp_path / "report.csv",
        *("-m", "rnn-onnx", *wire, "--concurrency-range", "1:3:2", "-p", "200"),
        # Short windows on a busy machine: it would go on until three of them agree.
        *("--max-trials", "3", "--stability-percentage", "999"),
        *("--shape", "tokens:8", "--input-data", data(tmp_path, {"tokens": [5] * 8})),
    )
    assert [one.per_second > 0 for one in found] == [True, True]


def test_lengths_may_be_sent_in_batches(
    analyzer: PerfAnalyzer, wire: list[str], tmp_path: Path
) -> None:
    padded = {"tokens": [2, 3, 4, 5, 0, 0, 0, 0], "lengths": [4]}
    [measured] = analyzer.run(
        tmp_path / "report.csv",
        *("-m", "lstm-onnx", *wire, "-b", "4", "--shape", "tokens:8", *ONE_WINDOW),
        *("--input-data", data(tmp_path, padded)),
    )
    assert measured.sequences == 4 * measured.requests > 0


def test_tensors_travel_in_shared_memory(
    analyzer: PerfAnalyzer, wire: list[str], tmp_path: Path
) -> None:
    [measured] = analyzer.run(
        tmp_path / "report.csv",
        *("-m", "lstm-onnx", *wire, "--shared-memory", "system", *ONE_WINDOW),
        *("--input-data", data(tmp_path, {"tokens": [5] * 8, "lengths": [8]})),
        *("--shape", "tokens:8", "--output-shared-memory-size", "160"),
    )
    assert measured.per_second > 0


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_a_stream_is_measured(
    compression: str, analyzer: PerfAnalyzer, server: RunningServer, tmp_path: Path
) -> None:
    [measured] = analyzer.run(
        tmp_path / "report.csv",
        *("-m", "lstm-onnx", "-i", "grpc", "-u", server.grpc, "--streaming", "--async"),
        *("--grpc-compression-algorithm", compression, *ONE_WINDOW),
        *("--shape", "tokens:8", "--input-data", data(tmp_path, {"tokens": [5] * 8})),
    )
    assert measured.per_second > 0


@pytest.mark.parametrize("form", ["json", "binary"])
def test_rest_is_measured_with_tensors_of_either_form(
    form: str, analyzer: PerfAnalyzer, server: RunningServer, tmp_path: Path
) -> None:
    [measured] = analyzer.run(
        tmp_path / "report.csv",
        *("-m", "lstm-onnx", "-i", "http", "-u", server.rest, *ONE_WINDOW),
        *("--input-tensor-format", form, "--output-tensor-format", form),
        *("--shape", "tokens:8", "--input-data", data(tmp_path, {"tokens": [5] * 8})),
    )
    assert measured.per_second > 0


def test_made_up_lengths_are_refused_with_the_field(
    analyzer: PerfAnalyzer, wire: list[str]
) -> None:
    done = analyzer.try_to_run(
        *("-m", "lstm-onnx", *wire, "--shape", "tokens:8", "--input-data", "zero", *ONE_WINDOW)
    )
    assert done.returncode != 0
    assert "inputs.lengths[0]: got length 0, expected from 1 to 8" in done.stdout + done.stderr
