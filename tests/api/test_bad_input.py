"""Requests that must be refused: the right code, field, got and expected, and the server lives."""

import asyncio
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnx.parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from seqlens_wire.errors import from_metadata
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb import sequences_pb2
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import pack, unpack
from seqlens_wire.tensors import datatype_of

# The mean of the real positions' features.
MASKED_MEAN = """
<ir_version: 8, opset_import: ["" : 17]>
masked_mean (float[batch, time, 3] x, int64[batch, time] mask) => (float[batch, 3] mean) {
  real = Cast<to = 1>(mask)
  last = Constant<value_ints = [2]>()
  time_axis = Constant<value_ints = [1]>()
  spread = Unsqueeze(real, last)
  kept = Mul(x, spread)
  total = ReduceSum<keepdims = 0>(kept, time_axis)
  count = ReduceSum<keepdims = 0>(spread, time_axis)
  mean = Div(total, count)
}
"""

# Looks up ids in a way that hides the table's size: an id beyond it makes the model itself fail.
HIDDEN_TABLE = """
<ir_version: 8, opset_import: ["" : 17]>
hidden_table (int64[batch, time] ids) => (float[batch, time] picked) {
  zero = Constant<value_float = 0.0>()
  step = Constant<value_float = 10.0>()
  end = Constant<value_float = 10000.0>()
  table = Range(zero, end, step)
  one = Constant<value_ints = [1]>()
  moved = Add(ids, one)
  picked = Gather(table, moved)
}
"""


# Two thousand bytes of answer for every position.
WIDE = """
<ir_version: 8, opset_import: ["" : 17]>
wide (int64[batch, time] ids) => (float[batch, time, 500] picked) {
  zero = Constant<value_float = 0.0>()
  step = Constant<value_float = 1.0>()
  end = Constant<value_float = 5000.0>()
  numbers = Range(zero, end, step)
  sizes = Constant<value_ints = [10, 500]>()
  table = Reshape(numbers, sizes)
  picked = Gather(table, ids)
}
"""

# No time axis: requests run as they come.
DENSE = """
<ir_version: 8, opset_import: ["" : 17]>
dense (float[batch, 3] x) => (float[batch, 3] y) {
  y = Add(x, x)
}
"""


@pytest.fixture(scope="module")
def bad_server(
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
    serve_for_module: Callable[..., Any],
) -> Any:
    """A server of an example model and of some that are hard to serve, with low limits."""
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "lstm-onnx").symlink_to(repository / "lstm-onnx")
    models = {
        "masked-mean": MASKED_MEAN,
        "hidden-table": HIDDEN_TABLE,
        "wide": WIDE,
        "dense": DENSE,
    }
    for name, text in models.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(text), version / "model.onnx")
    stated = "inputs: {mask: {role: mask, mask_marks: real}}\n"
    (folder / "masked-mean" / "model.yaml").write_text(stated)
    limits = {"sequence-length": 50, "message-bytes": 60_000, "message-sequences": 500}
    options = [f"--limits.max-{name}={value}" for name, value in limits.items()]
    return serve_for_module(folder, *options)


@pytest.fixture
def channel(bad_server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(bad_server.grpc) as opened:
        yield opened


@pytest.fixture
def count(bad_server: Any) -> Callable[..., float]:
    """What the server's metrics say now: ``count(family, label=value, ...)``."""

    def read(name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://{bad_server.metrics}/metrics") as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = (sample for family in families for sample in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return read


@pytest.fixture
def infer(channel: grpc.Channel) -> Callable[[pb.ModelInferRequest], pb.ModelInferResponse]:
    return GRPCInferenceServiceStub(channel).ModelInfer  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _serves_on(infer: Any) -> Iterator[None]:
    """Whatever a test sent, a good request after it is answered."""
    yield
    assert infer(request(tokens=[[2, 3]])).outputs[0].shape == [1, 40]


def request(model: str = "lstm-onnx", version: str = "", **arrays: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, values in arrays.items():
        array = np.asarray(values)
        message.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message


def with_shape(shape: list[int]) -> pb.ModelInferRequest:
    message = request(tokens=[[2, 3]])
    message.inputs[0].shape[:] = shape
    return message


def with_output(*names: str) -> pb.ModelInferRequest:
    message = request(tokens=[[2, 3]])
    for name in names:
        message.outputs.add(name=name)
    return message


def mixed() -> pb.ModelInferRequest:
    message = request(tokens=[[2, 3]])
    message.inputs[0].contents.int64_contents.extend([2, 3])
    return message


def masked(x: Any, mask: Any = None) -> pb.ModelInferRequest:
    arrays = {"x": np.asarray(x, np.float32)} | ({} if mask is None else {"mask": mask})
    return request("masked-mean", **arrays)


ONES = np.ones((2, 3, 3))
NAN = np.where(np.arange(18).reshape(2, 3, 3) == 16, np.nan, 1.0)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND

CASES = {
    "unknown model": (request("nobody"), MISSING, "model_name", "nobody", "lstm-onnx"),
    "unknown version": (request(version="9", tokens=[[2]]), MISSING, "model_version", "9", "1"),
    "missing input": (request(), INVALID, "inputs.tokens", "nothing", "INT64 [-1, -1]"),
    "extra input": (
        request(tokens=[[2]], more=[[2]]), INVALID, "inputs.more", "does not have", "'tokens'"
    ),
    "misnamed input": (
        request(token=[[2]]), INVALID, "inputs.token", "did you mean 'tokens'", "'tokens'"
    ),
    "input sent twice": (
        pb.ModelInferRequest(
            model_name="lstm-onnx",
            inputs=[*request(tokens=[[2]]).inputs] * 2,
            raw_input_contents=[*request(tokens=[[2]]).raw_input_contents] * 2,
        ),
        INVALID, "inputs.tokens", "2 times", "once",
    ),
    "datatype": (request(tokens=[[2.0]]), INVALID, "inputs.tokens.datatype", "FP64", "INT64"),
    "rank": (request(tokens=[2, 3]), INVALID, "inputs.tokens.shape", "rank 1", "rank 2"),
    "feature size": (masked(np.ones((1, 2, 4))), INVALID, "inputs.x.shape", "[1, 2, 4]", "3"),
    "element count": (with_shape([1, 3]), INVALID, "inputs.tokens", "16 bytes", "24 bytes"),
    "negative shape": (
        with_shape([1, -2]), INVALID, "inputs.tokens.shape", "[1, -2]", "no negative"
    ),
    "overflowing shape": (
        with_shape([2**62, 2**62]), INVALID, "inputs.tokens.shape", str(2**62), "fewer elements"
    ),
    "no position": (
        request(tokens=np.zeros((1, 0), np.int64)),
        INVALID, "inputs.tokens.shape", "0 positions", "at least one",
    ),
    "no row": (
        request(tokens=np.zeros((0, 2), np.int64)),
        INVALID, "inputs.tokens.shape", "0 rows", "at least one",
    ),
    "too long": (
        request(tokens=[[2] * 51]), INVALID, "inputs.tokens[0]", "length 51", "at most 50"
    ),
    "token id too large": (
        request(tokens=[[2, 9999]]), INVALID, "inputs.tokens[0, 1]", "9999", "from 0 to"
    ),
    "token id negative": (
        request(tokens=[[2], [-1]]), INVALID, "inputs.tokens[1, 0]", "-1", "from 0 to"
    ),
    "not a number": (masked(NAN), INVALID, "inputs.x[1, 2, 1]", "nan", "a finite number"),
    "lengths beyond the data": (
        request(tokens=[[2, 3]], lengths=[3]), INVALID, "inputs.lengths[0]", "length 3", "1 to 2"
    ),
    "length zero": (
        request(tokens=[[2, 3]], lengths=[0]), INVALID, "inputs.lengths[0]", "length 0", "1 to 2"
    ),
    "lengths of fewer rows": (
        request(tokens=[[2], [3]], lengths=[1]), INVALID, "inputs.lengths.shape", "1 rows", "2"
    ),
    "mask with a hole": (
        masked(ONES, [[1, 0, 1], [1, 1, 1]]),
        INVALID, "inputs.mask[0]", "padding at position 1", "then padding to the end",
    ),
    "mask padded on the left": (
        masked(ONES, [[1, 1, 1], [0, 1, 1]]),
        INVALID, "inputs.mask[1]", "padding before position 1", "then padding to the end",
    ),
    "mask of another size": (
        masked(ONES, [[1, 1], [1, 1]]), INVALID, "inputs.mask.shape", "2 positions", "3"
    ),
    "unknown output": (
        with_output("logit"), INVALID, "outputs.logit", "did you mean 'logits'", "'logits'"
    ),
    "output asked for twice": (
        with_output("logits", "logits"), INVALID, "outputs.logits", "2 times", "once"
    ),
    "name without end": (
        request(**{"t" * 2000: [[2]]}), INVALID, "inputs", "2000 characters", "at most 1000"
    ),
    "output name without end": (
        with_output("l" * 2000), INVALID, "outputs", "2000 characters", "at most 1000"
    ),
    "too many rows": (
        request(tokens=[[2]] * 501), INVALID, "inputs.tokens", "501 sequences", "at most 500"
    ),
    "datatype of a model without time axis": (
        request("dense", x=[[1, 2, 3]]), INVALID, "inputs.x.datatype", "INT64", "FP32"
    ),
    "shape of a model without time axis": (
        request("dense", x=np.ones((2, 4), np.float32)), INVALID, "inputs.x.shape", "[2, 4]", "3"
    ),
    "rank of a model without time axis": (
        request("dense", x=np.ones(3, np.float32)), INVALID, "inputs.x.shape", "rank 1", "rank 2"
    ),
    "raw and typed mixed": (mixed(), INVALID, "inputs.tokens.contents", "typed", "one form"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_is_refused_with_field_got_and_expected(name: str, infer: Any) -> None:
    message, code, field, got, expected = CASES[name]
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    error = caught.value
    assert error.code() is code
    details = from_metadata(error.trailing_metadata())
    assert details.field == field
    assert got in details.got
    assert expected in details.expected
    assert got in error.details() or field in error.details()
    # and the server serves on
    assert infer(request(tokens=[[2, 3, 4]])).outputs[0].shape == [1, 40]


def test_padding_may_hold_anything(infer: Any) -> None:
    clean = infer(request(tokens=[[2, 3]]))
    dirty = infer(request(tokens=[[2, 3, -1, 10**12]], lengths=[2]))
    np.testing.assert_allclose(
        np.frombuffer(dirty.raw_output_contents[0], np.float32),
        np.frombuffer(clean.raw_output_contents[0], np.float32),
        atol=1e-5,
    )
    mean = infer(masked(np.where(np.arange(9).reshape(1, 3, 3) > 5, np.nan, 2.0), [[1, 1, 0]]))
    assert np.frombuffer(mean.raw_output_contents[0], np.float32).tolist() == [2.0, 2.0, 2.0]


def test_a_row_that_fails_in_the_model_fails_its_request_by_name(infer: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(request("hidden-table", ids=[[0, 1], [2, 5000]]))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details().startswith("row 1: ")
    fine = infer(request("hidden-table", ids=[[0, 1], [2, 1]]))
    assert np.frombuffer(fine.raw_output_contents[0], np.float32).tolist() == [10, 20, 30, 20]


def test_a_sequence_that_fails_in_the_model_costs_its_batch_mates_nothing(
    channel: grpc.Channel,
) -> None:
    message = sequences_pb2.ProcessBatchRequest(model_name="hidden-table")
    rows = [np.array(ids) for ids in ([0, 1], [2, 5000], [2])]
    message.sequences.inputs.append(pack("ids", "INT64", rows))
    answers = SequenceServiceStub(channel).ProcessBatch(message).answers
    assert [result.error.code for result in answers.results] == ["", "INTERNAL", ""]
    assert [row.tolist() for row in unpack(answers.outputs[0])] == [[10, 20], [30]]


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(infer: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(request(tokens=np.ones((1000, 50), np.int64)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max (400" in caught.value.details()
    assert infer(request(tokens=[[2]])).outputs[0].shape == [1, 40]


def test_texts_to_a_model_without_tokenizer(channel: grpc.Channel) -> None:
    message = sequences_pb2.ProcessBatchRequest(model_name="masked-mean")
    message.sequences.texts.append("the kitten")
    with pytest.raises(grpc.RpcError) as caught:
        SequenceServiceStub(channel).ProcessBatch(message)
    assert caught.value.code() is INVALID
    details = from_metadata(caught.value.trailing_metadata())
    assert (details.field, details.got) == ("texts", "a text")
    assert "no tokenizer" in details.expected


def test_a_batch_that_cannot_be_read_fails_as_a_whole(channel: grpc.Channel) -> None:
    message = sequences_pb2.ProcessBatchRequest(model_name="lstm-onnx")
    message.sequences.inputs.append(pack("tokens", "INT64", [np.array([2, 3])]))
    message.sequences.inputs[0].values = b"123"
    with pytest.raises(grpc.RpcError) as caught:
        SequenceServiceStub(channel).ProcessBatch(message)
    assert caught.value.code() is INVALID
    assert from_metadata(caught.value.trailing_metadata()).field == "inputs.tokens"


@pytest.mark.parametrize(
    ("sequences", "got"),
    [
        (sequences_pb2.Sequences(texts=[""] * 501), "501 sequences"),
        (
            sequences_pb2.Sequences(
                inputs=[
                    sequences_pb2.RaggedTensor(
                        name="tokens", datatype="INT64", rows=501, rank=1, shapes=[0] * 501
                    )
                ]
            ),
            "501 sequences",
        ),
        (
            sequences_pb2.Sequences(inputs=[pack("t" * 2000, "INT64", [np.array([2])])]),
            "a name of 2000 characters",
        ),
    ],
)
def test_a_message_may_not_ask_for_too_much(
    sequences: sequences_pb2.Sequences, got: str, channel: grpc.Channel
) -> None:
    """A few bytes each, but a minute of the event loop if they are many or long enough."""
    message = sequences_pb2.ProcessBatchRequest(model_name="lstm-onnx", sequences=sequences)
    with pytest.raises(grpc.RpcError) as caught:
        SequenceServiceStub(channel).ProcessBatch(message)
    assert caught.value.code() is INVALID
    assert from_metadata(caught.value.trailing_metadata()).got == got


def test_a_text_beyond_all_words_is_refused_before_it_is_tokenised(channel: grpc.Channel) -> None:
    message = sequences_pb2.ProcessBatchRequest(model_name="lstm-onnx")
    message.sequences.texts.extend(["the kitten", "x" * 20_000, "it"])
    answers = SequenceServiceStub(channel).ProcessBatch(message).answers
    error = answers.results[1].error
    assert (error.field, error.got, error.expected) == (
        "texts", "20000 characters", "at most 12800"
    )  # fmt: skip
    assert [result.length for result in answers.results] == [2, 0, 1]


def stream(channel: grpc.Channel, model: str, **sequences: Any) -> dict[str, Any]:
    """Result or error of each id of one message."""
    messages = [
        sequences_pb2.ProcessStreamRequest(options={"model_name": model, "window": 500}),
        sequences_pb2.ProcessStreamRequest(sequences=sequences),
    ]
    responses = list(SequenceServiceStub(channel).ProcessStream(iter(messages)))
    assert all(response.ByteSize() <= 60_000 for response in responses)
    return {
        name: result
        for response in responses
        for name, result in zip(response.ids, response.answers.results, strict=True)
    }


def test_what_is_refused_for_its_size_is_counted_for_its_model(
    channel: grpc.Channel, infer: Any, count: Callable[..., float]
) -> None:
    def refused() -> float:
        return count("seqlens_rejected_total", model="lstm-onnx", reason="too_large")

    before = refused()
    for message in (request(tokens=[[2]] * 501), request(**{"t" * 2000: [[2]]})):
        with pytest.raises(grpc.RpcError):
            infer(message)
    assert refused() == before + 2
    batch = sequences_pb2.ProcessBatchRequest(model_name="lstm-onnx")
    batch.sequences.texts.extend(["x" * 20_000, "it", "x" * 20_000])
    SequenceServiceStub(channel).ProcessBatch(batch)
    assert refused() == before + 4
    stream(channel, "lstm-onnx", ids=["a", "b"], sequences={"texts": [""] * 501})
    assert refused() == before + 6
    with pytest.raises(grpc.RpcError):
        stream(channel, "lstm-onnx", ids=["a"] * 501)
    assert refused() == before + 7


def wide_batch(sequences: int) -> sequences_pb2.ProcessBatchRequest:
    rows = [np.full(10, 2)] * sequences  # twenty thousand bytes of answer each
    packed = sequences_pb2.Sequences(inputs=[pack("ids", "INT64", rows)])
    return sequences_pb2.ProcessBatchRequest(model_name="wide", sequences=packed)


@pytest.mark.parametrize("method", ["batch", "infer"])
def test_an_answer_that_fits_into_no_message_is_refused_and_counted(
    method: str, channel: grpc.Channel, infer: Any, count: Callable[..., float]
) -> None:
    def ask(sequences: int) -> None:
        if method == "infer":
            infer(request("wide", ids=np.full((sequences, 10), 2)))
        else:
            SequenceServiceStub(channel).ProcessBatch(wide_batch(sequences))

    def counted(code: str) -> float:
        return count("seqlens_requests_total", model="wide", method=method, code=code)

    ask(2)
    before = counted("OK"), counted("INVALID_ARGUMENT")
    with pytest.raises(grpc.RpcError) as caught:
        ask(4)
    assert caught.value.code() is INVALID
    details = from_metadata(caught.value.trailing_metadata())
    assert details.field == "answer"
    assert details.got.startswith("80")
    assert "at most 60000 (limits.max_message_bytes): ask for fewer sequences" in details.expected
    assert (counted("OK"), counted("INVALID_ARGUMENT")) == (before[0], before[1] + 1)


def test_a_sequence_of_a_stream_whose_answer_fits_into_no_message_is_told_so(
    channel: grpc.Channel,
) -> None:
    ids = [np.full(length, 2) for length in (10, 50, 10)]
    packed = sequences_pb2.Sequences(inputs=[pack("ids", "INT64", ids)])
    results = stream(channel, "wide", ids=["a", "b", "c"], sequences=packed)
    assert {name: result.error.field for name, result in results.items()} == {
        "a": "", "b": "answer", "c": ""
    }  # fmt: skip
    assert results["b"].error.code == "INVALID_ARGUMENT"


async def test_a_stream_holds_no_more_bytes_than_a_message_however_wide_its_window(
    bad_server: Any,
) -> None:
    """Its answers are not read, and its window has room for thousands of times what it may hold."""
    packed = sequences_pb2.Sequences(inputs=[pack("ids", "INT64", [np.full(20, 2)])])
    opening = sequences_pb2.ProcessStreamRequest(options={"model_name": "wide", "window": 4000})
    message = sequences_pb2.ProcessStreamRequest(
        sequences={"ids": ["x" * 10_000], "sequences": packed}
    )
    async with grpc.aio.insecure_channel(bad_server.grpc) as channel:
        call = SequenceServiceStub(channel).ProcessStream()
        await call.write(opening)

        async def send_all() -> None:
            for _ in range(3000):
                await call.write(message)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send_all(), 4)
        call.cancel()


def test_answers_of_a_stream_that_are_too_large_together_travel_apart(
    channel: grpc.Channel,
) -> None:
    """All are ready at once, and their texts add up to more than a message may hold."""
    names = [f"{number:040}" for number in range(500)]
    packed = sequences_pb2.Sequences(inputs=[pack("t", "INT64", [np.array([2])] * 500)])
    results = stream(channel, "lstm-onnx", ids=names, sequences=packed)
    assert list(results) == names
    assert {result.error.code for result in results.values()} == {"INVALID_ARGUMENT"}


def test_too_many_ids_end_their_stream(channel: grpc.Channel) -> None:
    messages = [
        sequences_pb2.ProcessStreamRequest(options={"model_name": "lstm-onnx"}),
        sequences_pb2.ProcessStreamRequest(sequences={"ids": ["a"] * 501}),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        list(SequenceServiceStub(channel).ProcessStream(iter(messages)))
    assert caught.value.code() is INVALID
    assert from_metadata(caught.value.trailing_metadata()).field == "sequences.ids"


def test_a_model_without_time_axis_answers_each_of_a_batch(channel: grpc.Channel) -> None:
    message = sequences_pb2.ProcessBatchRequest(model_name="dense")
    rows = [np.array(row, np.float32) for row in ([1, 2, 3], [4, 5, 6])]
    message.sequences.inputs.append(pack("", "FP32", rows))
    answers = SequenceServiceStub(channel).ProcessBatch(message).answers
    assert [row.tolist() for row in unpack(answers.outputs[0])] == [[2, 4, 6], [8, 10, 12]]
