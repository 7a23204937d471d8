"""What generic tools ask about a model: its statistics and its configuration."""

import time
import urllib.request
from collections import defaultdict
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from seqlens_wire.pb import model_config_pb2
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

# Parts of a request as the protocol counts them, and the stages of the metrics that they are.
STAGES = {
    "queue": "queue",
    "compute_input": "batch",
    "compute_infer": "compute",
    "compute_output": "encode",
}


def stage_seconds(metrics: str, model: str) -> dict[str, tuple[int, float]]:
    """How often each stage of a model was timed, and how long that was altogether."""
    with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
    counts: defaultdict[str, int] = defaultdict(int)
    sums: defaultdict[str, float] = defaultdict(float)
    for family in families:
        for sample in family.samples:
            if sample.labels.get("model") != model:
                continue
            if sample.name == "seqlens_stage_duration_seconds_count":
                counts[sample.labels["stage"]] += int(sample.value)
            if sample.name == "seqlens_stage_duration_seconds_sum":
                sums[sample.labels["stage"]] += sample.value
    return {stage: (counts[stage], sums[stage]) for stage in counts}


def counted_stages(
    metrics: str, model: str, before: dict[str, tuple[int, float]], requests: int
) -> dict[str, tuple[int, float]]:
    """The stages once all of these requests are in them: a lane counts after it has answered."""
    end = time.monotonic() + 5
    while True:
        after = stage_seconds(metrics, model)
        told = {
            stage: (after[stage][0] - before[stage][0], after[stage][1] - before[stage][1])
            for stage in STAGES.values()
        }
        if {count for count, _ in told.values()} == {requests} or time.monotonic() > end:
            return told
        time.sleep(0.02)


def tokens(*shape: int) -> Any:
    tensor = triton.InferInput("tokens", list(shape), "INT64")
    tensor.set_data_from_numpy(np.full(shape, 2))
    return tensor


def test_what_perf_analyzer_computes_is_what_the_metrics_tell(server: Any) -> None:
    model, requests = "transformer-onnx", 40
    with triton.InferenceServerClient(server.grpc) as client:

        def statistics() -> Any:
            return client.get_inference_statistics(model, "1").model_stats[0].inference_stats

        before, stages = statistics(), stage_seconds(server.metrics, model)
        answers: Queue[Any] = Queue()
        for _ in range(20):
            client.async_infer(model, [tokens(1, 30)], lambda result, error: answers.put(error))
        assert {answers.get(timeout=20) for _ in range(20)} == {None}
        for _ in range(20):
            client.infer(model, [tokens(1, 5)])
        after = statistics()
    told = counted_stages(server.metrics, model, stages, requests)
    assert after.success.count - before.success.count == requests
    whole = after.success.ns - before.success.ns
    parts = 0
    for part, stage in STAGES.items():
        count = getattr(after, part).count - getattr(before, part).count
        ns = getattr(after, part).ns - getattr(before, part).ns
        parts += ns
        assert count == told[stage][0] == requests
        # perf_analyzer divides by the requests and prints whole microseconds.
        assert ns / count / 1_000 == pytest.approx(told[stage][1] * 1e6 / count, abs=0.1)
    assert 0 < parts <= whole


def executed(statistics: Any) -> int:
    """Rows of all executions."""
    return sum(one.batch_size * one.compute_infer.count for one in statistics.batch_stats)


def test_executions_are_told_by_their_batch_size(server: Any) -> None:
    with triton.InferenceServerClient(server.grpc) as client:

        def statistics() -> Any:
            return client.get_inference_statistics("rnn-onnx").model_stats[0]

        before, begun = statistics(), time.time()
        client.infer("rnn-onnx", [tokens(6, 10)])
        after, end = statistics(), time.monotonic() + 5
        # A lane counts after it has answered.
        while executed(after) < executed(before) + 6 and time.monotonic() < end:
            after = statistics()
    sizes = [one.batch_size for one in after.batch_stats]
    assert sizes == sorted(set(sizes))
    for part in ("compute_input", "compute_infer", "compute_output"):
        counts = [getattr(one, part).count for one in after.batch_stats]
        assert sum(counts) == after.execution_count
        assert all(getattr(one, part).ns > 0 for one in after.batch_stats)
    assert executed(after) - executed(before) == 6
    assert after.inference_count - before.inference_count == 6
    assert begun - 1 <= after.last_inference / 1_000 <= time.time() + 1
    assert not after.response_stats
    assert not after.memory_usage


def test_what_fails_or_is_given_up_is_no_success(server: Any) -> None:
    with triton.InferenceServerClient(server.grpc) as client:

        def statistics() -> Any:
            return client.get_inference_statistics("rnn-torchscript").model_stats[0].inference_stats

        before = statistics()
        bad = triton.InferInput("tokens", [1, 1], "INT64")
        bad.set_data_from_numpy(np.array([[99_999]]))
        with pytest.raises(triton.InferenceServerException):
            client.infer("rnn-torchscript", [bad])
        with pytest.raises(triton.InferenceServerException, match=r"(?i)deadline"):
            client.infer("rnn-torchscript", [tokens(100, 2000)], client_timeout=0.2)
        end = time.monotonic() + 5
        while statistics().fail.count < before.fail.count + 2 and time.monotonic() < end:
            time.sleep(0.02)
        after = statistics()
    assert after.fail.count - before.fail.count == 2
    assert after.success.count == before.success.count
    assert after.queue.count == before.queue.count


def test_statistics_of_what_is_not_there(server: Any) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for name, version in (("nobody", ""), ("rnn-onnx", "9"), ("rnn-onnx", "one")):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_configuration_has_what_tools_look_for(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelConfig(pb.ModelConfigRequest(name="transformer-onnx"))
    config = answer.config
    assert (config.name, config.platform, config.backend) == (
        "transformer-onnx",
        "onnxruntime_onnx",
        "onnxruntime",
    )
    (instances,) = config.instance_group
    assert instances.kind == model_config_pb2.ModelInstanceGroup.Kind.KIND_CPU
    assert instances.count == 1  # lanes
    assert config.version_policy.latest.num_versions == 1
    assert config.default_model_filename == "model.onnx"
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.dynamic_batching.preferred_batch_size
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    for said in ("model_transaction_policy", "response_cache", "version_policy"):
        assert config.HasField(said)
    assert not config.model_transaction_policy.decoupled
    assert not config.response_cache.enable
    assert [one.label_filename for one in config.output] == ["labels.txt"]
    assert {one.name: one.optional for one in config.input} == {"tokens": False, "lengths": True}
    assert config.parameters["max_length"].string_value.isdecimal()


def test_the_version_policy_is_the_stated_one(changing: Any, infer: Any) -> None:
    file = changing.repository / "rnn-onnx" / "model.yaml"
    with triton.InferenceServerClient(changing.server.grpc) as client:
        try:
            for text, expected in (
                ("version_policy: all", {"all": {}}),
                ("version_policy: {specific: [1]}", {"specific": {"versions": ["1"]}}),
            ):
                file.write_text(text)
                client.load_model("rnn-onnx")
                config = client.get_model_config("rnn-onnx", as_json=True)["config"]
                assert config["version_policy"] == expected
        finally:
            file.unlink(missing_ok=True)
            client.load_model("rnn-onnx")
    infer("rnn-onnx")
