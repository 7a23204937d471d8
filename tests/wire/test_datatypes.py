import ml_dtypes
import numpy as np
import pytest

from seqlens_wire.datatypes import DATATYPES, TensorError, datatype_of, find_datatype


@pytest.mark.parametrize("name", sorted(DATATYPES.keys() - {"BF16"}))
def test_arrays_of_a_datatype_are_recognised(name: str) -> None:
    assert datatype_of(np.zeros(1, DATATYPES[name].dtype)) == name


def test_byte_order_does_not_matter() -> None:
    assert datatype_of(np.zeros(1, ">i4")) == "INT32"


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.array([b"a"], object)])
def test_strings_are_bytes(array: np.ndarray) -> None:
    assert datatype_of(array) == "BYTES"


def test_bfloat16_of_ml_dtypes_is_recognised() -> None:
    assert datatype_of(np.zeros(1, ml_dtypes.bfloat16)) == "BF16"


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]"])
def test_arrays_without_a_datatype_are_refused(dtype: str) -> None:
    with pytest.raises(TensorError, match="expected booleans, integers, floats or strings"):
        datatype_of(np.zeros(1, dtype))


def test_unknown_datatypes_are_refused_with_the_known_ones() -> None:
    with pytest.raises(TensorError, match="INT64") as caught:
        find_datatype("FP8", field="inputs[0]")
    assert (caught.value.field, caught.value.got) == ("inputs[0]", "datatype 'FP8'")
