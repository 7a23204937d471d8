import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlens_client import InvalidInput
from seqlens_client._sequences import (
    MESSAGE_BYTES,
    MESSAGE_SEQUENCES,
    Prepared,
    grouped,
    is_many,
    pack_group,
    prepare,
    prepare_all,
)

ANY_SEQUENCE = st.one_of(
    st.text(max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.just(np.zeros((2, 3), np.float32)),
    st.just({"ids": np.zeros(2, np.int64), "weights": np.zeros(2)}),
    st.just(np.zeros(MESSAGE_BYTES // 16, np.int64)),
)


@pytest.mark.parametrize(
    "sequence",
    [
        "text",
        [1, 2],
        (1, 2),
        [0.5],
        np.zeros(2),
        np.zeros((2, 2)),
        {"ids": [1]},
        [b"a", b"b"],
        b"a",
    ],
)
def test_one_sequence_is_told_from_many(sequence: Any) -> None:
    assert not is_many(sequence)


@pytest.mark.parametrize(
    "sequence",
    [[], [[1], [2, 3]], [[[0.1], [0.2]], [[0.3]]], ["a", "b"], [np.zeros(2)], [{"ids": [1]}]],
)
def test_many_sequences_are_told_from_one(sequence: Any) -> None:
    assert is_many(sequence)


def same(first: Prepared, second: Prepared) -> bool:
    return (
        first.text == second.text
        and first.form == second.form
        and all(np.array_equal(first.arrays[n], second.arrays[n]) for n in first.arrays)
    )


@given(st.lists(ANY_SEQUENCE, max_size=200), st.integers(1, MESSAGE_SEQUENCES))
def test_groups_hold_all_sequences_in_order_and_keep_the_bounds(
    sequences: list[Any], limit: int
) -> None:
    groups = list(grouped(sequences, limit))
    flat = list(itertools.chain.from_iterable(groups))
    assert len(flat) == len(sequences)
    assert all(map(same, flat, map(prepare, sequences)))
    for group in groups:
        assert 1 <= len(group) <= limit
        assert len({prepared.form for prepared in group}) == 1
        size = sum(prepared.byte_count for prepared in group)
        assert size <= MESSAGE_BYTES or len(group) == 1


@given(st.lists(ANY_SEQUENCE, min_size=1, max_size=20))
def test_each_group_becomes_one_message_part(sequences: list[Any]) -> None:
    for group in grouped(sequences):
        message = pack_group(group)
        assert bool(message.texts) != bool(message.inputs)
        assert len(message.texts) == len(group) or all(
            tensor.rows == len(group) for tensor in message.inputs
        )


def test_sequences_of_a_lazy_iterable_do_not_wait_for_each_other() -> None:
    read: list[int] = []

    def lazy() -> Iterator[list[int]]:
        for index in range(3):
            read.append(index)
            yield [index]

    groups = grouped(lazy())
    assert len(next(groups)) == 1
    assert read == [0]


@pytest.mark.parametrize(
    ("sequence", "got"),
    [
        ([[1], [2, 3]], "rows of different lengths"),
        (np.array([{}, 1], object), "a dict among the values"),
        (np.zeros(1, "M8[s]"), r"dtype datetime64\[s\]"),
    ],
)
def test_what_cannot_be_an_array_is_refused(sequence: Any, got: str) -> None:
    with pytest.raises(InvalidInput, match=f"sequence 4: inputs.ids: got {got}") as caught:
        prepare({"ids": sequence}, index=4)
    assert (caught.value.index, caught.value.field) == (4, "inputs.ids")


def test_an_empty_list_is_of_integers_so_that_its_length_is_what_is_wrong() -> None:
    assert prepare([]).arrays[""].dtype == np.int64
    assert prepare({"ids": []}).arrays["ids"].dtype == np.int64
    assert prepare(np.zeros(0, np.float32)).arrays[""].dtype == np.float32


def test_no_inputs_at_all_are_refused() -> None:
    with pytest.raises(InvalidInput, match="inputs: got an empty mapping"):
        prepare({}, 3)


@pytest.mark.parametrize(
    "column",
    [
        pandas.Series(["a", "bc"]),
        pandas.Series(["a", "bc"], dtype="string"),
        pandas.Series([[1], [2, 3]]),
        np.array([np.array([1]), np.array([2, 3])], object),
        [torch.tensor([1]), torch.tensor([2, 3])],
        [pandas.Series([1]), pandas.Series([2, 3])],
    ],
    ids=["texts", "strings", "lists", "arrays", "tensors", "columns"],
)
def test_columns_of_tables_and_ragged_arrays_are_many(column: Any) -> None:
    prepared = prepare_all(column)
    assert isinstance(prepared, list)
    (group,) = prepared
    assert len(group) == 2
    assert {each.text for each in group} in ({"a", "bc"}, {None})


@pytest.mark.parametrize("one", [pandas.Series([1, 2]), torch.tensor([1, 2]), [torch.tensor(1)]])
def test_columns_and_tensors_of_numbers_are_one(one: Any) -> None:
    prepared = prepare_all(one)
    assert isinstance(prepared, Prepared)
    assert prepared.arrays[""].dtype == np.int64


@pytest.mark.parametrize(
    ("sequence", "got"),
    [
        (None, "None, expected a text"),
        ((i for i in [1]), r"a generator, expected .*use stream"),
        ({1, 2}, "a set, expected"),
        ([2**70], "an integer of more than 64 bits among the values"),
        ([1, None], "None among the values"),
        (float("nan"), "nan, a missing value"),
        (torch.ones(2, requires_grad=True), "Tensor: Can't call numpy"),
    ],
)
def test_what_is_no_sequence_is_named(sequence: Any, got: str) -> None:
    with pytest.raises(InvalidInput, match=f"^sequence 1: sequence: got {got}"):
        prepare(sequence, 1)


@pytest.mark.parametrize(("one", "got"), [("a text", "a text"), ({"ids": [1]}, "a mapping")])
def test_one_sequence_is_no_stream(one: Any, got: str) -> None:
    with pytest.raises(InvalidInput, match=f"sequences: got {got}, expected an iterable"):
        grouped(one)
