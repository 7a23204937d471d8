"""Sequences in JSON to plain requests."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from seqlens.api.requests import SequenceRequest
from seqlens.api.rest.sequence_json import MAX_RANK, read_sequence, read_sequences
from seqlens.errors import InvalidRequest, MessageTooLarge, SeqLensError

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TEXTS = st.text(st.sampled_from('a[],"\\ é\n{'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=32) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def written(array: NDArray[np.generic], spaces: bool) -> bytes:
    return json.dumps(array.tolist(), indent=1 if spaces else None).encode()


def shown(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that nested lists show: behind one of no elements there are none."""
    return shape[: shape.index(0) + 1] if 0 in shape else shape


@given(arrays.arrays(np.int64, SHAPES), st.booleans())
def test_integers_are_read_as_they_are_nested(array: NDArray[np.int64], spaces: bool) -> None:
    (tensor,) = read_sequence(written(array, spaces)).inputs
    # Of nineteen digits on, unsigned at first: the model's own datatype is what they become.
    assert (tensor.name, tensor.datatype) in {("", "INT64"), ("", "UINT64")}
    assert tensor.array.shape == shown(array.shape)
    assert tensor.array.tolist() == array.tolist()


@given(arrays.arrays(np.float64, SHAPES, elements=st.floats(-1e300, 1e300)))
def test_numbers_are_read_exactly(array: NDArray[np.float64]) -> None:
    (tensor,) = read_sequence(written(array, spaces=False)).inputs
    assert tensor.array.tolist() == array.tolist()


@given(st.lists(TEXTS, min_size=1), TEXTS.filter(lambda name: name != "a"))
def test_texts_may_hold_any_characters(texts: list[str], text: str) -> None:
    request = read_sequence(json.dumps({"a": texts, text: [1]}).encode())
    strings = next(tensor for tensor in request.inputs if tensor.name == "a")
    assert strings.array.tolist() == [one.encode() for one in texts]
    assert {tensor.name for tensor in request.inputs} == {"a", text}
    assert read_sequence(json.dumps(text).encode()).text == text


@given(JSON)
def test_every_value_is_read_or_refused(value: object) -> None:
    text = json.dumps(value).encode()
    with suppress(InvalidRequest):
        assert isinstance(read_sequence(text), SequenceRequest)
    try:
        listed = read_sequences(text, 3)
    except InvalidRequest:
        no_json = b"Infinity" in text or b"NaN" in text
        assert no_json or not isinstance(value, list) or len(value) > 3
    else:
        assert len(listed) == len(value)  # type: ignore[arg-type]
        assert all(isinstance(one, SequenceRequest | SeqLensError) for one in listed)


@pytest.mark.parametrize(
    "text",
    [b"[[1], [2, 3]]", b"[1, [2]]", b"[[1], 2]", b"[[], [1]]", b"[1, true]", b"[null]", b"[{}]",
     b'[1, "a"]', b'["a", ["b"]]', b"[" * (MAX_RANK + 1) + b"]" * (MAX_RANK + 1),
     b"[1, 99999999999999999999]", b"[1e400]", b'["\xff"]'],
)  # fmt: skip
def test_what_is_no_array_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="inputs"):
        read_sequence(text)


def test_numbers_beyond_63_bits_are_taken() -> None:
    (tensor,) = read_sequence(b"[18446744073709551615]").inputs
    assert tensor.array.tolist() == [2**64 - 1]


def test_there_is_a_most_of_sequences() -> None:
    assert len(read_sequences(b"[1, 2]", 2)) == 2
    with pytest.raises(MessageTooLarge, match="more than 2"):
        read_sequences(b"[1, 2, 3]", 2)
