"""Requests taken apart into sequences and put together again."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.requests import LengthLimits, NamedTensor
from seqlens.api.rows import join, split
from seqlens.errors import InvalidRequest, SequenceTooLong
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.sequences import Array

Order = Literal["batch first", "time first"]


def anatomy(
    order: Order = "batch first", *, features: int = 0, marks: Sequence[InputAnatomy] = ()
) -> ModelAnatomy:
    """A model whose one output has the shape of its one sequence input."""
    batch, time = (0, 1) if order == "batch first" else (1, 0)
    shape = (-1, -1, features) if features else (-1, -1)
    datatype = "FP32" if features else "INT64"
    sequence = InputAnatomy(
        "x", datatype, shape, InputRole.SEQUENCE, batch, time, None if features else 100
    )
    return ModelAnatomy(
        inputs=(sequence, *marks),
        outputs=(OutputAnatomy("y", datatype, shape, OutputRole.PER_STEP, batch, (time,)),),
        architecture=Architecture.RNN,
        evidence=(),
        sequential_depth="O(n)",
    )


LENGTHS = InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, batch_axis=0)
MASK = InputAnatomy("mask", "INT64", (-1, -1), InputRole.MASK, 0, 1, mask_marks="real")
PADDING_MASK = InputAnatomy("mask", "BOOL", (-1, -1), InputRole.MASK, 0, 1, mask_marks="padding")
POSITIONS = InputAnatomy("positions", "INT64", (-1, -1), InputRole.POSITIONS, 0, 1)


def tensor(name: str, values: object, datatype: str = "INT64") -> NamedTensor:
    types = {"INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
    return NamedTensor(name, datatype, np.array(values, dtype=types[datatype]))


def padded(rows: Sequence[Array], order: Order, fill: float) -> Array:
    time = max(len(row) for row in rows)
    array = np.full((len(rows), time, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array if order == "batch first" else np.moveaxis(array, 0, 1)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    order=st.sampled_from(["batch first", "time first"]),
    features=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 99),
)
def test_split_then_join_gives_the_callers_tensor_with_clean_padding(
    lengths: list[int], order: Order, features: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (features,) if features else ()
    kind = np.float32 if features else np.int64
    rows = [random.integers(1, 100, (length, *shape)).astype(kind) for length in lengths]
    model = anatomy(order, features=features, marks=[LENGTHS])
    sent = padded(rows, order, fill=np.nan if features else -1)
    datatype = "FP32" if features else "INT64"
    inputs = [NamedTensor("x", datatype, sent), tensor("lengths", lengths)]

    sequences, layout = split(model, inputs, limits=LengthLimits(7))

    assert [sequence.length for sequence in sequences] == lengths
    for sequence, row in zip(sequences, rows, strict=True):
        assert set(sequence.inputs) == {"x"}
        np.testing.assert_array_equal(sequence.inputs["x"], row)
    joined = join(model, [{"y": s.inputs["x"]} for s in sequences], layout, ["y"])
    np.testing.assert_array_equal(joined["y"], padded(rows, order, fill=0))


def test_padding_beyond_the_longest_row_comes_back_as_the_caller_sent_it() -> None:
    inputs = [tensor("x", [[1, 2, 9, 9]]), tensor("lengths", [2])]
    sequences, layout = split(anatomy(marks=[LENGTHS]), inputs, limits=LengthLimits(2))
    joined = join(anatomy(), [{"y": sequences[0].inputs["x"]}], layout, ["y"])
    np.testing.assert_array_equal(joined["y"], [[1, 2, 0, 0]])


@pytest.mark.parametrize(
    ("mark", "values", "datatype"),
    [
        (MASK, [[1, 1, 0], [1, 0, 0]], "INT64"),
        (PADDING_MASK, [[False, False, True], [False, True, True]], "BOOL"),
    ],
)
def test_a_mask_of_either_sense_cuts_padding(
    mark: InputAnatomy, values: object, datatype: str
) -> None:
    inputs = [tensor("x", [[5, 6, 0], [7, 0, 0]]), tensor("mask", values, datatype)]
    sequences, _ = split(anatomy(marks=[mark]), inputs, limits=LengthLimits(3))
    assert [list(s.inputs["x"]) for s in sequences] == [[5, 6], [7]]


def test_without_lengths_or_mask_every_position_is_real() -> None:
    sequences, _ = split(
        anatomy(marks=[LENGTHS, MASK]), [tensor("x", [[5, 6, 0]])], limits=LengthLimits(3)
    )
    assert [s.length for s in sequences] == [3]


@pytest.mark.parametrize("role", [InputRole.LENGTHS, InputRole.OTHER])
def test_one_value_a_row_may_have_an_axis_of_size_one(role: InputRole) -> None:
    values = InputAnatomy("values", "INT64", (-1,), role, batch_axis=0)
    model, tokens = anatomy(marks=[values]), tensor("x", [[1, 2], [3, 4]])
    flat, _ = split(model, [tokens, tensor("values", [1, 2])], LengthLimits(10))
    column, _ = split(model, [tokens, tensor("values", [[1], [2]])], LengthLimits(10))
    assert repr(column) == repr(flat)
    with pytest.raises(InvalidRequest, match="rank 2"):
        split(model, [tokens, tensor("values", [[1, 1], [2, 2]])], LengthLimits(10))


def test_positions_that_count_up_are_taken_and_left_to_the_server() -> None:
    inputs = [tensor("x", [[5, 6]]), tensor("positions", [[0, 1]])]
    sequences, _ = split(anatomy(marks=[POSITIONS]), inputs, limits=LengthLimits(2))
    assert set(sequences[0].inputs) == {"x"}


X = tensor("x", [[1, 2, 3], [4, 5, 0]])


@pytest.mark.parametrize(
    ("inputs", "field", "got", "expected"),
    [
        ([tensor("y", [[1]])], "inputs.y", "does not have", "'x'"),
        ([], "inputs.x", "nothing", "INT64 [-1, -1]"),
        ([X, X], "inputs.x", "2 times", "once"),
        ([tensor("x", [[1.0]], "FP32")], "inputs.x.datatype", "FP32", "INT64"),
        ([tensor("x", [1, 2])], "inputs.x.shape", "[2], rank 1", "[-1, -1], rank 2"),
        ([tensor("x", np.zeros((2, 0)))], "inputs.x.shape", "0 positions", "at least one position"),
        ([tensor("x", np.zeros((0, 2)))], "inputs.x.shape", "0 rows", "at least one row"),
        ([tensor("x", [[1, 100]])], "inputs.x[0, 1]", "100", "from 0 to 99"),
        ([tensor("x", [[1, -1]])], "inputs.x[0, 1]", "-1", "from 0 to 99"),
        ([X, tensor("lengths", [3])], "inputs.lengths.shape", "1 rows", "2, as in 'x'"),
        ([X, tensor("lengths", [3, 4])], "inputs.lengths[1]", "length 4", "from 1 to 3"),
        ([X, tensor("lengths", [0, 3])], "inputs.lengths[0]", "length 0", "from 1 to 3"),
        ([X, tensor("mask", [[1, 0, 1], [1, 1, 1]])], "inputs.mask[0]", "position 1", "then padd"),
        ([X, tensor("mask", [[1, 1, 1], [0, 1, 1]])], "inputs.mask[1]", "before position 1", ""),
        ([X, tensor("mask", [[0, 0, 0], [1, 1, 1]])], "inputs.mask[0]", "no real position", ""),
        ([X, tensor("mask", [[1, 1], [1, 1]])], "inputs.mask.shape", "2 positions", "3, as in 'x'"),
        (
            [X, tensor("lengths", [3, 2]), tensor("mask", [[1, 1, 1], [1, 1, 1]])],
            "inputs.mask[1]",
            "length 3",
            "length 2, as 'lengths' says",
        ),
        ([X, tensor("positions", [[0, 1, 2], [1, 2, 3]])], "inputs.positions[1, 0]", "1", "0: pos"),
    ],
)
def test_bad_inputs_name_field_got_and_expected(
    inputs: list[NamedTensor], field: str, got: str, expected: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        split(anatomy(marks=[LENGTHS, MASK, POSITIONS]), inputs, limits=LengthLimits(3))
    assert caught.value.field == field
    assert got in caught.value.got
    assert expected in caught.value.expected


def test_a_misnamed_input_gets_a_suggestion() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'lengths'"):
        split(anatomy(marks=[LENGTHS]), [X, tensor("length", [3, 3])], limits=LengthLimits(3))


def test_only_real_positions_count_against_the_longest_length() -> None:
    inputs = [X, tensor("lengths", [2, 1])]
    split(anatomy(marks=[LENGTHS]), inputs, limits=LengthLimits(2))
    with pytest.raises(SequenceTooLong, match=r"inputs\.x\[0\]: got length 3, expected at most 2"):
        split(anatomy(), [X], limits=LengthLimits(2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_would_spread_are_refused_where_they_are_real(value: float) -> None:
    model = anatomy(features=1, marks=[LENGTHS])
    x = tensor("x", [[[1.0], [value]]], "FP32")
    split(model, [x, tensor("lengths", [1])], limits=LengthLimits(2))
    with pytest.raises(InvalidRequest, match=r"inputs\.x\[0, 1, 0\]"):
        split(model, [x, tensor("lengths", [2])], limits=LengthLimits(2))


def test_a_model_frozen_to_one_length_takes_no_other() -> None:
    with pytest.raises(InvalidRequest, match="length 4, the only one"):
        split(anatomy(), [X], limits=LengthLimits(9, only=4))


def test_a_model_without_batch_axis_takes_one_sequence_as_it_is() -> None:
    model = ModelAnatomy(
        inputs=(InputAnatomy("x", "INT64", (-1,), InputRole.SEQUENCE, None, 0),),
        outputs=(OutputAnatomy("y", "INT64", (-1,), OutputRole.PER_STEP, None, (0,)),),
        architecture=Architecture.RNN,
        evidence=(),
        sequential_depth="O(n)",
    )
    sequences, rows = split(model, [tensor("x", [1, 2, 3])], limits=LengthLimits(9))
    assert len(sequences) == 1
    joined = join(model, [{"y": sequences[0].inputs["x"]}], rows, ["y"])
    np.testing.assert_array_equal(joined["y"], [1, 2, 3])


def test_state_and_pooled_outputs_are_stacked_along_their_own_batch_axis() -> None:
    base = anatomy()
    outputs = (
        OutputAnatomy("h", "FP32", (2, -1, 3), OutputRole.STATE, 1),
        OutputAnatomy("logits", "FP32", (-1, 4), OutputRole.PER_SEQUENCE, 0),
    )
    model = ModelAnatomy(base.inputs, outputs, base.architecture, (), "O(n)")
    _, rows = split(model, [X], limits=LengthLimits(3))
    answers = [
        {"h": np.full((2, 3), row, np.float32), "logits": np.full(4, row, np.float32)}
        for row in (1, 2)
    ]
    joined = join(model, answers, rows, ["h", "logits"])
    assert joined["h"].shape == (2, 2, 3)
    assert joined["h"][0, :, 0].tolist() == [1, 2]
    assert joined["logits"][:, 0].tolist() == [1, 2]


def test_attention_maps_are_padded_along_both_time_axes() -> None:
    base = anatomy()
    output = OutputAnatomy("w", "FP32", (-1, 5, -1, -1), OutputRole.ATTENTION, 0, (2, 3))
    model = ModelAnatomy((*base.inputs, LENGTHS), (output,), base.architecture, (), "O(1)")
    _, rows = split(model, [X, tensor("lengths", [3, 2])], limits=LengthLimits(3))
    # As the scheduler gives them: batch axis removed, the first time axis in front.
    answers = [{"w": np.ones((n, 5, n), np.float32)} for n in (3, 2)]
    joined = join(model, answers, rows, ["w"])["w"]
    assert joined.shape == (2, 5, 3, 3)
    assert joined[1].sum() == 5 * 2 * 2


def test_an_input_that_is_left_out_gets_its_default_at_every_real_position() -> None:
    kinds = InputAnatomy("kinds", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, 2, default=0)
    model = anatomy(marks=(kinds, LENGTHS))
    x, lengths = tensor("x", [[1, 2, 3], [4, 5, 0]]), tensor("lengths", [3, 2])
    sequences, _ = split(model, [x, lengths], LengthLimits(10))
    assert [one.inputs["kinds"].tolist() for one in sequences] == [[0, 0, 0], [0, 0]]
    given, _ = split(model, [x, lengths, tensor("kinds", [[1, 1, 1], [0, 1, 7]])], LengthLimits(10))
    assert [one.inputs["kinds"].tolist() for one in given] == [[1, 1, 1], [0, 1]]
