"""Looking inside where messages, places and time are scarce, and models come and go."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from tests.support.attention import eager_maps, joined, ragged

from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub

MODEL = "transformer-onnx"
MESSAGE_BYTES = 65_536


@pytest.fixture(scope="module")
def narrow(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, serve_for_module: Callable[..., Any]
) -> Any:
    folder = tmp_path_factory.mktemp("narrow")
    (folder / MODEL).symlink_to(repository / MODEL, target_is_directory=True)
    return serve_for_module(
        folder, "--limits.max-message-bytes", str(MESSAGE_BYTES), "--insight.max-waiting", "1",
        "--insight.idle-seconds", "0.1", "--drain-seconds", "0.5",
    )  # fmt: skip


@pytest.fixture
def channel(narrow: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(narrow.grpc) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> SequenceServiceStub:
    return SequenceServiceStub(channel)


@pytest.fixture
def metric(narrow: Any) -> Callable[[str], float]:
    """The sum of all samples whose line begins so and holds all other words."""

    def read(*words: str) -> float:
        text = urlopen(f"http://{narrow.metrics}/metrics").read().decode()
        lines = [line for line in text.splitlines() if line.startswith(words[0])]
        return sum(float(line.split()[-1]) for line in lines if all(w in line for w in words))

    return read


def asking(length: int, count: int = 1) -> pb.ExtractAttentionRequest:
    return pb.ExtractAttentionRequest(model_name=MODEL, sequences=ragged([[5] * length] * count))


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_maps_too_large_for_a_message_come_in_several(stub: SequenceServiceStub) -> None:
    tokens = [5 + number % 20 for number in range(150)]
    request = pb.ExtractAttentionRequest(model_name=MODEL, sequences=ragged([tokens, [7, 8]]))
    answers = list(stub.ExtractAttention(request))
    assert len(answers) > 20
    assert max(answer.ByteSize() for answer in answers) <= MESSAGE_BYTES
    maps = joined(answers)
    names = [site.name for site in answers[0].header.sites]
    for number, sequence in enumerate((tokens, [7, 8])):
        expected = eager_maps(sequence)
        drawn = np.stack([maps[name, number] for name in names])
        np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_who_leaves_mid_stream_counts_as_cancelled_and_frees_the_place(
    stub: SequenceServiceStub, metric: Callable[..., float]
) -> None:
    counted = ("seqlens_requests_total", 'method="attention"', 'code="CANCELLED"')
    before = metric(*counted)
    for _ in range(4):  # twice as many as there are places
        call = stub.ExtractAttention(asking(300))
        assert next(call).header.sites
        call.cancel()
        with suppress(grpc.RpcError):
            list(call)
        until(lambda: metric("seqlens_insight_queue_requests") == 0)
    until(lambda: metric(*counted) == before + 4)
    assert len(list(stub.ExtractAttention(asking(3)))) == 3


def test_more_than_may_wait_are_refused_with_a_time_to_come_back(
    stub: SequenceServiceStub,
) -> None:
    # Nobody reads their messages, so that they keep their places.
    holding = [stub.ExtractAttention(asking(1_000)) for _ in range(2)]
    for call in holding:
        assert next(call).header.sites
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ExtractAttention(asking(3)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert int(pushback) >= 100
    for call in holding:
        call.cancel()

    def answered() -> bool:
        with suppress(grpc.RpcError):
            return len(list(stub.ExtractAttention(asking(3)))) == 3
        return False

    until(answered)


def test_a_deadline_that_passes_is_told_and_frees_the_place(stub: SequenceServiceStub) -> None:
    call = stub.ExtractAttention(asking(1_000), timeout=0.2)
    time.sleep(0.3)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: bool(list(stub.ExtractAttention(asking(3)))))


def test_times_of_looking_inside_stay_apart_from_plain_ones(
    stub: SequenceServiceStub, metric: Callable[..., float]
) -> None:
    plain = 'seqlens_request_duration_seconds_count{architecture="transformer"'
    drawn = ("seqlens_insight_duration_seconds_count", 'method="attention"', '"1-16"')
    before = metric(plain), metric(*drawn), metric("seqlens_attention_bytes_total")
    list(stub.ExtractAttention(asking(10)))
    after = metric(plain), metric(*drawn), metric("seqlens_attention_bytes_total")
    assert after == (before[0], before[1] + 1, before[2] + 2 * 8 * 10 * 10 * 4)


def test_unloading_a_model_while_maps_are_drawn_harms_nobody(
    stub: SequenceServiceStub, channel: grpc.Channel
) -> None:
    control = GRPCInferenceServiceStub(channel)
    ended: list[str] = []

    def draw() -> None:
        while not ended:
            try:
                list(stub.ExtractAttention(asking(200)))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    ended.append(error.code().name)

    slow = stub.ExtractAttention(asking(1_000))
    assert next(slow).header.sites
    thread = threading.Thread(target=draw)
    thread.start()
    time.sleep(0.1)
    control.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=MODEL))
    thread.join()
    assert ended == ["UNAVAILABLE"]
    with pytest.raises(grpc.RpcError) as caught:
        list(slow)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    control.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=MODEL))
    assert len(list(stub.ExtractAttention(asking(3)))) == 3


def test_a_model_that_was_closed_when_idle_is_opened_again(stub: SequenceServiceStub) -> None:
    assert len(list(stub.ExtractAttention(asking(3)))) == 3
    time.sleep(0.3)
    assert len(list(stub.ExtractAttention(asking(3)))) == 3


def test_influence_too_large_for_its_message_is_refused_before_any_work(
    stub: SequenceServiceStub,
) -> None:
    def ask(length: int) -> pb.MeasureInfluenceResponse:
        request = pb.MeasureInfluenceRequest(
            model_name=MODEL, sequences=ragged([[5, 6] * (length // 2)]), replacements=1
        )
        request.target.output = "hidden"
        return stub.MeasureInfluence(request)

    assert ask(60).maps
    with pytest.raises(grpc.RpcError) as refused:
        ask(96)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    size = 4 * 96 * (2 * 96 + 1)
    for words in (f"maps of {size} bytes", str(MESSAGE_BYTES), "output_positions"):
        assert words in refused.value.details()
