"""Attention maps as outputs of the Open Inference Protocol, with a client of the field."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tests.support.attention import eager_maps
from tritonclient.utils import InferenceServerException

from seqlens_zoo.weights import reference

MODEL = "transformer-onnx"
ROWS = [[5, 6, 7, 8], [9, 10]]
PADDED = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 0, 0, 0, 0]], np.int64)


@pytest.fixture(params=["grpc", "http"])
def triton(request: pytest.FixtureRequest) -> Any:
    return {"grpc": tritonclient.grpc, "http": tritonclient.http}[request.param]


@pytest.fixture
def client(triton: Any, server: Any) -> Iterator[Any]:
    address = server.grpc if triton is tritonclient.grpc else server.rest
    with triton.InferenceServerClient(address) as client:
        yield client


def infer(triton: Any, client: Any, *outputs: str, model: str = MODEL, rows: Any = PADDED) -> Any:
    tokens = triton.InferInput("tokens", list(rows.shape), "INT64")
    tokens.set_data_from_numpy(rows)
    lengths = triton.InferInput("lengths", [len(rows)], "INT64")
    lengths.set_data_from_numpy(np.resize(np.array([4, 2], np.int64), len(rows)))
    asked = [triton.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(model, [tokens, lengths], outputs=asked)


def listed(triton: Any, client: Any) -> list[str]:
    config = client.get_model_config(MODEL)
    if triton is tritonclient.grpc:
        return config.config.parameters["attention_outputs"].string_value.split(",")
    return config["parameters"]["attention_outputs"]["string_value"].split(",")


def test_maps_come_padded_with_zeros_beside_the_plain_outputs(triton: Any, client: Any) -> None:
    first, second = listed(triton, client)
    answer = infer(triton, client, second, "logits", first)
    for layer, name in enumerate((first, second)):
        drawn = answer.as_numpy(name)
        assert (drawn.shape, drawn.dtype) == ((2, 8, 6, 6), np.float32)
        for row, sequence in zip(drawn, ROWS, strict=True):
            length = len(sequence)
            expected = eager_maps(sequence)[layer]
            np.testing.assert_allclose(row[:, :length, :length], expected, atol=1e-5)
            assert not row[:, length:].any()
            assert not row[:, :, length:].any()
    expected = reference("transformer", ROWS)
    np.testing.assert_allclose(answer.as_numpy("logits"), expected, atol=1e-4)


def test_a_map_may_be_all_that_is_asked_for(triton: Any, client: Any) -> None:
    (name, _) = listed(triton, client)
    answer = infer(triton, client, name)
    assert answer.as_numpy(name).shape == (2, 8, 6, 6)
    assert answer.as_numpy("logits") is None


def test_who_asks_for_nothing_by_name_gets_no_map(triton: Any, client: Any) -> None:
    answer = infer(triton, client)
    assert all(answer.as_numpy(name) is None for name in listed(triton, client))
    assert answer.as_numpy("logits").shape == (2, 40)


def test_an_unknown_site_names_those_that_there_are(triton: Any, client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(triton, client, "attention:nope")
    assert all(repr(name) in caught.value.message() for name in listed(triton, client))


def test_a_model_without_attention_says_what_it_has(triton: Any, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="influence"):
        infer(triton, client, "attention:x", model="lstm-onnx")


def test_a_row_that_is_wrong_is_named(triton: Any, client: Any) -> None:
    (name, _) = listed(triton, client)
    wrong = PADDED.copy()
    wrong[1, 0] = 10_000
    with pytest.raises(InferenceServerException, match=r"inputs.tokens\[1, 0\]"):
        infer(triton, client, name, rows=wrong)


def test_padding_counts_for_what_is_too_large(triton: Any, client: Any) -> None:
    (name, _) = listed(triton, client)
    rows = np.full((9, 1_000), 5, np.int64)
    with pytest.raises(InferenceServerException, match=r"insight\.max_bytes"):
        infer(triton, client, name, rows=rows)
