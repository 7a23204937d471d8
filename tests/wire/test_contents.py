import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqlens_wire.contents import read_contents
from seqlens_wire.datatypes import DATATYPES, TensorError
from seqlens_wire.pb.open_inference_pb2 import InferTensorContents

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TYPED = sorted(d.name for d in DATATYPES.values() if d.contents_field)


def contents_of(array: np.ndarray, datatype: str) -> InferTensorContents:
    return InferTensorContents(**{DATATYPES[datatype].contents_field: array.ravel().tolist()})


def arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    elements = {"elements": st.binary(max_size=5), "fill": st.nothing()}
    return hnp.arrays(DATATYPES[datatype].dtype, SHAPES, **elements if datatype == "BYTES" else {})


@example(("UINT64", np.array([0, 2**64 - 1024, 2**63 + 1], np.uint64)))
@given(st.sampled_from(TYPED).flatmap(lambda d: st.tuples(st.just(d), arrays(d))))
def test_typed_elements_give_the_array(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    back = read_contents(contents_of(array, datatype), datatype, array.shape)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("datatype", "values", "wrong"),
    [("INT8", [1, 128], 128), ("INT8", [-129], -129), ("INT16", [2**15], 2**15)],
)
def test_values_beyond_a_small_integer_are_refused(
    datatype: str, values: list[int], wrong: int
) -> None:
    contents = InferTensorContents(int_contents=values)
    with pytest.raises(TensorError, match=f"got value {wrong}, expected from"):
        read_contents(contents, datatype, [len(values)])


def test_values_beyond_a_small_unsigned_integer_are_refused() -> None:
    with pytest.raises(TensorError, match="got value 256, expected from 0 to 255"):
        read_contents(InferTensorContents(uint_contents=[256]), "UINT8", [1])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_typed_form(datatype: str) -> None:
    with pytest.raises(TensorError, match="expected raw contents"):
        read_contents(InferTensorContents(fp32_contents=[1]), datatype, [1])


def test_elements_in_another_field_are_refused() -> None:
    with pytest.raises(TensorError, match="got fp32_contents, expected only int64_contents"):
        read_contents(InferTensorContents(fp32_contents=[1]), "INT64", [1])


def test_elements_in_two_fields_are_refused() -> None:
    contents = InferTensorContents(int64_contents=[1], fp32_contents=[1])
    with pytest.raises(TensorError, match="got int64_contents, fp32_contents"):
        read_contents(contents, "INT64", [1])


def test_number_of_elements_must_agree_with_the_shape() -> None:
    with pytest.raises(TensorError, match=r"got 3 elements in .*, expected 4 for shape \[2, 2\]"):
        read_contents(InferTensorContents(int64_contents=[1, 2, 3]), "INT64", [2, 2])
