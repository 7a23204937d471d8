"""The best classes of an output: which, in which order, and how they are written."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from seqlens.api.classification import best_classes
from seqlens.api.requests import NamedTensor
from seqlens.errors import AnswerTooLarge, InvalidRequest

LABELS = ("cat", "dog", "", "owl")


def classes(
    array: Any,
    count: int,
    labels: tuple[str, ...] = (),
    batch_axis: int | None = 0,
    max_bytes: int = 10_000,
) -> Any:
    tensor = NamedTensor("y", "FP32", np.asarray(array))
    best = best_classes(tensor, count, labels, batch_axis, max_bytes)
    assert (best.name, best.datatype, best.array.dtype) == ("y", "BYTES", object)
    return best.array


def test_value_index_and_label_with_six_decimals() -> None:
    rows = np.array([[0.25, -1.5, 1e-9, 3.0, 2.0], [1, 2, 3, 4, 5]], np.float32)
    assert classes(rows, 3, LABELS).tolist() == [
        # A blank line of labels.txt is no label, and there is none for the fifth class.
        [b"3.000000:3:owl", b"2.000000:4", b"0.250000:0:cat"],
        [b"5.000000:4", b"4.000000:3:owl", b"3.000000:2"],
    ]


def test_labels_may_be_of_any_language() -> None:
    assert classes([[1.0]], 1, ("кошка: a",)).tolist() == [["1.000000:0:кошка: a".encode()]]


@pytest.mark.parametrize("count", [2, 3, 100, 2**64 - 1])
def test_there_are_no_more_classes_than_values(count: int) -> None:
    assert classes([[1.0, 2.0]], count).tolist() == [[b"2.000000:1", b"1.000000:0"]]


def test_without_a_batch_axis_the_whole_output_is_one_row() -> None:
    best = classes(np.array([[1.0, 4.0], [3.0, 2.0]]), 2, batch_axis=None)
    assert best.shape == (2,)
    assert best.tolist() == [b"4.000000:1", b"3.000000:2"]


def test_a_time_axis_counts_as_part_of_the_row() -> None:
    steps = np.array([[[1.0, 5.0], [7.0, 2.0]]])  # [batch, time, classes]
    expected = [[b"7.000000:2", b"5.000000:1", b"2.000000:3"]]
    assert classes(steps, 3).tolist() == expected
    assert classes(steps.swapaxes(0, 1), 3, batch_axis=1).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_number_comes_after_all_numbers(dtype: Any) -> None:
    row = np.array([[np.nan, -np.inf, 1, np.inf, np.nan]], dtype)
    assert classes(row, 5).tolist() == [
        [b"inf:3", b"1.000000:2", b"-inf:1", b"nan:0", b"nan:4"],
    ]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int8, [-128, 127, 0], [b"127:1", b"0:2", b"-128:0"]),
        (np.uint8, [0, 255, 3], [b"255:1", b"3:2", b"0:0"]),
        (bool, [False, True, True], [b"1:1", b"1:2", b"0:0"]),
        # Neighbours that are the same as float64.
        (np.int64, [2**62, 2**62 + 1, -(2**63)], [b"%d:1" % (2**62 + 1), b"%d:0" % 2**62]),
        (np.uint64, [2**64 - 2, 2**64 - 1], [b"%d:1" % (2**64 - 1), b"%d:0" % (2**64 - 2)]),
    ],
)
def test_integers_are_ordered_and_written_as_they_are(
    dtype: Any, values: list[int], expected: list[bytes]
) -> None:
    best = classes(np.array([values], dtype), len(expected))
    assert best.tolist() == [expected]


def test_texts_have_no_classes() -> None:
    with pytest.raises(InvalidRequest) as caught:
        classes(np.array([[b"a"]], object), 1)
    assert caught.value.field == "outputs.y.parameters.classification"


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0), (0,), (0, 2, 2)])
def test_outputs_without_values_have_no_classes(shape: tuple[int, ...]) -> None:
    best = classes(np.zeros(shape), 2)
    assert best.shape == (shape[0], min(2, math.prod(shape[1:])))


def test_more_classes_than_an_answer_holds_are_refused_before_they_are_written() -> None:
    row = np.broadcast_to(np.float32(1), (1, 10_000_000))
    with pytest.raises(AnswerTooLarge):
        classes(row, 2**40)
    assert classes(row[:, :1000], 5).shape == (1, 5)


@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint64, bool]),
        npst.array_shapes(min_dims=2, max_dims=3, max_side=5),
    ),
    st.integers(1, 8),
)
def test_each_row_gets_its_largest_values_and_the_first_of_equals(array: Any, count: int) -> None:
    best = classes(array, count)
    rows = array.reshape(len(array), -1)
    for row, written in zip(rows.tolist(), best.tolist(), strict=True):
        # Python's own order, with what is no number last.
        order = sorted(range(len(row)), key=lambda i: (row[i] != row[i], -row[i], i))[:count]
        assert [int(one.split(b":")[1]) for one in written] == order
        kind = "%f" if array.dtype.kind == "f" else "%d"
        assert [one.split(b":")[0].decode() for one in written] == [kind % row[i] for i in order]
