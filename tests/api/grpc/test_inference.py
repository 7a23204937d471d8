"""Clients of the field against all six example models, in the process that imports SeqLens."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_zoo.antecedent import VOCABULARY
from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.formats import FORMATS
from seqlens_zoo.weights import reference

LENGTHS = (33, 1, 7, 120, 2)
MODELS = [f"{body}-{form}" for form in FORMATS for body in BODY_NAMES]


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(2, len(VOCABULARY), length).tolist() for length in LENGTHS]


@pytest.fixture
def stub(target: str) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(target) as channel:
        yield GRPCInferenceServiceStub(channel)


def expected(model: str, sequences: list[list[int]]) -> NDArray[np.float32]:
    body: BodyName = next(name for name in BODY_NAMES if model.startswith(name))
    return reference(body, sequences)


def padded(sequences: list[list[int]]) -> NDArray[np.int64]:
    """Rows filled up with a real word, which must not matter."""
    batch = np.full((len(sequences), max(map(len, sequences))), 5, np.int64)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


def output(model: str) -> str:
    """Name of the model's output: TorchScript keeps none."""
    return "logits" if model.endswith("onnx") else "output_0"


def tensors(client: Any, sequences: list[list[int]]) -> list[Any]:
    arrays = {"tokens": padded(sequences), "lengths": np.array([len(s) for s in sequences])}
    inputs = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), "INT64")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


@pytest.mark.parametrize("model", MODELS)
def test_tritonclient_gets_pytorchs_answers(
    model: str, target: str, sequences: list[list[int]]
) -> None:
    with triton.InferenceServerClient(target) as client:
        result = client.infer(model, tensors(triton, sequences), request_id="r1")
    logits = result.as_numpy(output(model))
    np.testing.assert_allclose(logits, expected(model, sequences), atol=1e-5)
    assert result.get_response().id == "r1"
    assert result.get_response().model_version == "1"


@pytest.mark.parametrize("model", MODELS)
async def test_tritonclient_for_asyncio_gets_them_too(
    model: str, target: str, sequences: list[list[int]]
) -> None:
    async with triton_aio.InferenceServerClient(target) as client:
        result = await client.infer(model, tensors(triton_aio, sequences))
    logits = result.as_numpy(output(model))
    np.testing.assert_allclose(logits, expected(model, sequences), atol=1e-5)


def test_lengths_left_out_mean_that_every_position_is_real(
    target: str, sequences: list[list[int]]
) -> None:
    with triton.InferenceServerClient(target) as client:
        inputs = tensors(triton, sequences[:1])[:1]
        logits = client.infer("lstm-onnx", inputs).as_numpy("logits")
    np.testing.assert_allclose(logits, expected("lstm-onnx", sequences[:1]), atol=1e-5)


def test_one_value_a_row_may_have_an_axis_of_size_one(
    target: str, sequences: list[list[int]]
) -> None:
    tokens, lengths = tensors(triton, sequences)
    lengths.set_shape([len(sequences), 1])
    with triton.InferenceServerClient(target) as client:
        logits = client.infer("lstm-onnx", [tokens, lengths]).as_numpy("logits")
    np.testing.assert_allclose(logits, expected("lstm-onnx", sequences), atol=1e-5)


def test_typed_contents_and_chosen_outputs(
    stub: GRPCInferenceServiceStub, sequences: list[list[int]]
) -> None:
    request = pb.ModelInferRequest(model_name="rnn-onnx")
    tokens = request.inputs.add(name="tokens", datatype="INT64", shape=[1, len(sequences[0])])
    tokens.contents.int64_contents.extend(sequences[0])
    request.outputs.add(name="logits")
    response = stub.ModelInfer(request)
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("logits", "FP32", [1, 40])
    ]
    logits = np.frombuffer(response.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(logits, expected("rnn", sequences[:1])[0], atol=1e-5)


def test_what_clients_ask_before_they_infer(target: str) -> None:
    with triton.InferenceServerClient(target) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rnn-onnx")
        assert not client.is_model_ready("rnn-onnx", "9")
        assert not client.is_model_ready("unknown")
        assert client.get_server_metadata().extensions == [
            "classification",
            "model_repository",
            "model_repository(unload_dependents)",
            "schedule_policy",
            "model_configuration",
            "system_shared_memory",
            "binary_tensor_data",
            "parameters",
            "statistics",
            "trace",
            "logging",
        ]
        index = client.get_model_repository_index().models
    assert sorted((one.name, one.version, one.state) for one in index) == sorted(
        (model, "1", "READY") for model in MODELS
    )


@pytest.mark.parametrize("model", MODELS)
def test_metadata_and_configuration_agree(model: str, target: str) -> None:
    with triton.InferenceServerClient(target) as client:
        metadata = client.get_model_metadata(model)
        config = client.get_model_config(model).config
    assert {(one.name, one.datatype, tuple(one.shape)) for one in metadata.inputs} == {
        ("tokens", "INT64", (-1, -1)),
        ("lengths", "INT64", (-1, 1)),  # as the reference server shows one value a row
    }
    assert [(one.name, tuple(one.shape)) for one in metadata.outputs] == [(output(model), (-1, 40))]
    assert list(metadata.versions) == ["1"]
    assert config.max_batch_size > 0
    assert {(one.name, tuple(one.dims), one.optional) for one in config.input} == {
        ("tokens", (-1,), False),
        ("lengths", (1,), True),
    }
    assert [one.name for one in config.input if one.HasField("reshape")] == ["lengths"]
    assert config.parameters["architecture"].string_value == model.split("-")[0]


def test_the_configuration_tells_what_was_found(stub: GRPCInferenceServiceStub) -> None:
    # Metadata does not: a client of MLServer would fail on it.
    assert not stub.ModelMetadata(pb.ModelMetadataRequest(name="lstm-onnx")).properties
    found = stub.ModelConfig(pb.ModelConfigRequest(name="lstm-onnx")).config.parameters
    assert found["architecture"].string_value == "lstm"
    assert found["sequential_depth"].string_value == "O(n)"
    assert found["time_axes"].string_value == "tokens=1"


def test_statistics_count_rows_and_executions(target: str, sequences: list[list[int]]) -> None:
    with triton.InferenceServerClient(target) as client:

        def statistics() -> Any:
            return client.get_inference_statistics("transformer-onnx").model_stats[0]

        before = statistics()
        client.infer("transformer-onnx", tensors(triton, sequences))
        after = statistics()
    assert after.inference_count - before.inference_count == len(sequences)
    assert 1 <= after.execution_count - before.execution_count <= len(sequences)
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert sum(one.compute_infer.count for one in after.batch_stats) == after.execution_count


def test_statistics_of_all_models(target: str) -> None:
    with triton.InferenceServerClient(target) as client:
        names = [one.name for one in client.get_inference_statistics().model_stats]
    assert sorted(names) == sorted(MODELS)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 8),
        lambda client: client.unregister_cuda_shared_memory("r"),
    ],
)
def test_extensions_that_are_not_announced_answer_unimplemented(call: Any, target: str) -> None:
    with (
        triton.InferenceServerClient(target) as client,
        pytest.raises(triton.InferenceServerException) as caught,
    ):
        call(client)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "does not offer that extension" in caught.value.message()
