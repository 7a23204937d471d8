import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqlens_wire.datatypes import DATATYPES, TensorError
from seqlens_wire.pb.sequences_pb2 import RaggedTensor
from seqlens_wire.ragged import pack, unpack

NUMERIC = sorted(DATATYPES.keys() - {"BF16", "BYTES"})


@st.composite
def ragged_rows(draw: st.DrawFn) -> tuple[str, list[np.ndarray]]:
    datatype, rank = draw(st.sampled_from([*NUMERIC, "BYTES"])), draw(st.integers(0, 3))
    shapes = st.tuples(*[st.integers(0, 4)] * rank)
    elements = {"elements": st.binary(max_size=5), "fill": st.nothing()}
    row = shapes.flatmap(
        lambda shape: hnp.arrays(
            DATATYPES[datatype].dtype, shape, **elements if datatype == "BYTES" else {}
        )
    )
    return datatype, draw(st.lists(row, max_size=5))


@given(ragged_rows())
def test_rows_come_back_each_in_its_own_shape(case: tuple[str, list[np.ndarray]]) -> None:
    datatype, rows = case
    back = unpack(RaggedTensor.FromString(pack("x", datatype, rows).SerializeToString()))
    assert [row.shape for row in back] == [row.shape for row in rows]
    assert all(row.dtype == DATATYPES[datatype].dtype for row in back)
    for row, original in zip(back, rows, strict=True):
        np.testing.assert_array_equal(row, original)


def test_shapes_of_token_ids_are_their_lengths() -> None:
    tensor = pack("ids", "INT64", [np.arange(3), np.arange(5)])
    assert (tensor.rows, tensor.rank, list(tensor.shapes)) == (2, 1, [3, 5])
    assert len(tensor.values) == 8 * 8


def test_rows_are_made_to_fit_one_by_one() -> None:
    rows = [np.array([2**63 + 1], np.uint64), np.array([1], np.int64)]
    assert unpack(pack("x", "UINT64", rows))[0].tolist() == [2**63 + 1]


def test_rows_of_unpacked_numbers_are_views() -> None:
    tensor = pack("x", "FP32", [np.ones((2, 3)), np.zeros((1, 3))])
    first, second = unpack(tensor)
    assert first.base is not None
    assert not second.flags.writeable


def test_a_row_that_does_not_fit_is_named() -> None:
    with pytest.raises(TensorError) as caught:
        pack("ids", "INT8", [np.array([1]), np.array([300])])
    assert caught.value.field == "ids[1]"


def test_a_row_of_another_rank_is_named() -> None:
    with pytest.raises(TensorError, match=r"ids\[1\]: got rank 2, expected rank 1"):
        pack("ids", "INT64", [np.zeros(1, int), np.zeros((1, 1), int)])


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (RaggedTensor(rows=2, rank=1, shapes=[1]), "2 for 2 rows of rank 1"),
        (RaggedTensor(rows=1, rank=1, shapes=[2], values=b"1"), "2 bytes for INT8"),
        (RaggedTensor(rows=1, rank=1, shapes=[1], values=b"12"), "1 bytes for INT8"),
        (RaggedTensor(rows=1, rank=1, shapes=[-1]), "no negative sizes"),
        (RaggedTensor(rows=-1, rank=1), "rows not negative"),
        (RaggedTensor(rows=1, rank=-1), "rows not negative"),
        (RaggedTensor(rows=1, rank=33, shapes=[1] * 33), "rank from 0 to 32"),
        (RaggedTensor(rows=2**62, rank=0), f"at least {2**62} for {2**62} rows"),
        (RaggedTensor(rows=2, rank=2, shapes=[2**62, 4, 1, 1]), "fewer elements"),
        (RaggedTensor(rows=8, rank=1, shapes=[2**58] * 8), "fewer elements"),
    ],
)
def test_messages_that_do_not_agree_with_themselves_are_refused(
    tensor: RaggedTensor, expected: str
) -> None:
    tensor.name, tensor.datatype = "ids", "INT8"
    with pytest.raises(TensorError, match=expected) as caught:
        unpack(tensor)
    assert caught.value.field == "ids"


@given(
    st.sampled_from(sorted(DATATYPES)),
    st.integers(-1, 4),
    st.integers(-1, 3),
    st.lists(st.integers(-1, 5), max_size=8),
    st.binary(max_size=40),
)
def test_any_message_gives_its_rows_or_a_tensor_error(
    datatype: str, rows: int, rank: int, shapes: list[int], values: bytes
) -> None:
    tensor = RaggedTensor(
        name="x", datatype=datatype, rows=rows, rank=rank, shapes=shapes, values=values
    )
    try:
        unpacked = unpack(tensor)
    except TensorError:
        return
    assert len(unpacked) == rows
    assert [size for row in unpacked for size in row.shape] == shapes
