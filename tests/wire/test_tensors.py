import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import InferInput
from tritonclient.utils import serialize_byte_tensor

from seqlens_wire.datatypes import DATATYPES
from seqlens_wire.tensors import TensorError, conform, decode, element_count, encode

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NUMERIC = sorted(DATATYPES.keys() - {"BYTES", "BF16"})


def numeric_arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(DATATYPES[datatype].dtype, SHAPES)


def bytes_arrays() -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(object, SHAPES, elements=st.binary(max_size=9), fill=st.nothing())


def bfloat16_values() -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays of values that BF16 has."""
    bits = hnp.arrays(np.uint32, SHAPES, elements=st.integers(0, 2**16 - 1))
    return bits.map(lambda upper: (upper << 16).view(np.float32))


def bits(array: np.ndarray) -> bytes:
    """For comparisons in which NaN equals NaN and 0.0 differs from -0.0."""
    return array.tobytes()


# --- round trips


@given(st.sampled_from(NUMERIC).flatmap(lambda d: st.tuples(st.just(d), numeric_arrays(d))))
def test_numbers_come_back_bit_by_bit(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    back = decode(encode(array, datatype), datatype, array.shape)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert bits(back) == bits(array)


@given(bytes_arrays())
def test_byte_strings_come_back(array: np.ndarray) -> None:
    back = decode(encode(array, "BYTES"), "BYTES", array.shape)
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@given(bfloat16_values())
def test_values_that_bf16_has_come_back(array: np.ndarray) -> None:
    back = decode(encode(array, "BF16"), "BF16", array.shape)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("datatype", NUMERIC)
def test_decoding_copies_nothing(datatype: str) -> None:
    data = encode(np.ones((3, 2), DATATYPES[datatype].dtype), datatype)
    array = decode(data, datatype, [3, 2])
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


@given(numeric_arrays("INT32"))
def test_layout_in_memory_does_not_matter(array: np.ndarray) -> None:
    assert encode(array.T.astype(">i4"), "INT32") == np.ascontiguousarray(array.T).tobytes()


def test_memoryviews_are_read_too() -> None:
    view = memoryview(b"\xff" + np.arange(3, dtype="<i8").tobytes())[1:]
    assert decode(view, "INT64", [3]).tolist() == [0, 1, 2]
    assert decode(memoryview(b"\2\0\0\0ab"), "BYTES", [1]).tolist() == [b"ab"]


# --- as tritonclient writes them


@given(st.sampled_from(NUMERIC).flatmap(lambda d: st.tuples(st.just(d), numeric_arrays(d))))
def test_numbers_are_the_bytes_that_tritonclient_sends(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    tensor = InferInput("input", array.shape, datatype)
    tensor.set_data_from_numpy(array)
    assert encode(array, datatype) == tensor._raw_content


@given(bytes_arrays())
def test_byte_strings_are_the_bytes_that_tritonclient_sends(array: np.ndarray) -> None:
    serialized = serialize_byte_tensor(array)
    assert encode(array, "BYTES") == (serialized.item() if array.size else b"")


@given(st.lists(st.text(max_size=5), min_size=1))
def test_texts_are_the_bytes_that_tritonclient_sends(texts: list[str]) -> None:
    array = np.array(texts, object)
    assert encode(array, "BYTES") == serialize_byte_tensor(array).item()


@given(hnp.arrays(np.float32, SHAPES))
def test_bf16_rounds_to_nearest_even_as_ml_dtypes_does(array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = array.astype(ml_dtypes.bfloat16)
    assert encode(array, "BF16") == expected.tobytes()


def test_bf16_breaks_ties_to_the_even_neighbour() -> None:
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    halves = np.frombuffer(encode(ties, "BF16"), np.uint16)
    assert halves.tolist() == [0x3F80, 0x3F82]


@given(hnp.arrays(np.float32, SHAPES))
def test_bf16_arrays_are_the_bytes_that_tritonclient_sends(array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        halves = array.astype(ml_dtypes.bfloat16)
    tensor = InferInput("input", halves.shape, "BF16")
    tensor.set_data_from_numpy(halves)
    assert encode(halves, "BF16") == tensor._raw_content


# --- making values fit


@given(numeric_arrays("INT64"), st.sampled_from(["INT8", "INT16", "INT32", "UINT8", "UINT64"]))
def test_integers_fit_or_are_refused_but_never_wrap(array: np.ndarray, datatype: str) -> None:
    limits = np.iinfo(DATATYPES[datatype].dtype)
    fits = all(limits.min <= int(value) <= limits.max for value in array.ravel())
    if fits:
        assert conform(array, datatype).tolist() == array.tolist()
    else:
        with pytest.raises(TensorError, match=f"expected from {limits.min} to {limits.max}"):
            conform(array, datatype)


def test_floats_do_not_turn_infinite() -> None:
    with pytest.raises(TensorError, match=r"value 100000\.0, expected at most 65504"):
        encode(np.array([1.0, 1e5]), "FP16")


def test_infinities_and_nan_stay_what_they_are() -> None:
    values = conform(np.array([np.inf, -np.inf, np.nan]), "FP16")
    np.testing.assert_array_equal(values, np.array([np.inf, -np.inf, np.nan], np.float16))


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([1.0]), "INT64"),
        (np.array([1]), "BOOL"),
        (np.array([True]), "INT64"),
        (np.array([True]), "FP32"),
        (np.array([1]), "BYTES"),
        (np.array(["1"]), "INT64"),
    ],
)
def test_values_of_another_kind_are_refused(array: np.ndarray, datatype: str) -> None:
    with pytest.raises(TensorError, match=f"expected values for {datatype}"):
        encode(array, datatype)


def test_numbers_among_byte_strings_are_refused() -> None:
    with pytest.raises(TensorError, match="got int, expected bytes or str elements"):
        encode(np.array([b"a", 1], object), "BYTES")


def test_fitting_arrays_are_not_copied() -> None:
    array = np.arange(3)
    assert conform(array, "INT64") is array


# --- bytes that are not what they say


@given(
    st.sampled_from(sorted(DATATYPES)),
    st.binary(max_size=40),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_any_bytes_give_an_array_of_that_shape_or_a_tensor_error(
    datatype: str, data: bytes, shape: list[int]
) -> None:
    try:
        array = decode(data, datatype, shape)
    except TensorError:
        return
    assert array.shape == tuple(shape)


@pytest.mark.parametrize("length", [0, 7, 9, 16])
def test_sizes_must_agree(length: int) -> None:
    with pytest.raises(TensorError, match=r"expected 8 bytes for FP32 of shape \[1, 2\]"):
        decode(bytes(length), "FP32", [1, 2], field="x")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([2, -1], "no negative sizes"),
        ([2**62, 4], "fewer elements"),
        ([0, 2**62, 4], "fewer elements"),
        ([1] * 33, "at most 32"),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_impossible_shapes_are_refused(shape: list[int], expected: str, datatype: str) -> None:
    with pytest.raises(TensorError, match=expected):
        decode(b"", datatype, shape)


@given(st.lists(st.integers(-2, 2**63 - 1), max_size=40))
def test_every_shape_has_a_count_that_numpy_takes_or_is_refused(shape: list[int]) -> None:
    try:
        count = element_count(shape)
    except TensorError:
        return
    view = np.lib.stride_tricks.as_strided(np.zeros(1), shape, [0] * len(shape))
    assert view.size == count


@pytest.mark.parametrize(
    ("data", "count", "expected"),
    [
        (b"\2\0\0\0a", 1, "element 0 of 1 to end at byte 6"),
        (b"\xff\xff\xff\xffabc", 1, "element 0 of 1 to end at byte 4294967299"),
        (b"\0\0\0\0\1", 1, "4 bytes for 1 elements"),
        (b"\0\0\0\0\1\0\0\0", 2, "element 1 of 2 to end at byte 9"),
        (b"", 1, "at least 4 for 1 elements"),
        (b"\0\0\0\0", 2**59, "at least"),
    ],
)
def test_broken_byte_strings_are_refused(data: bytes, count: int, expected: str) -> None:
    with pytest.raises(TensorError, match=expected):
        decode(data, "BYTES", [count])


def test_booleans_are_zero_or_one() -> None:
    with pytest.raises(TensorError, match="got byte 2, expected 0 or 1"):
        decode(b"\0\1\2", "BOOL", [3])
