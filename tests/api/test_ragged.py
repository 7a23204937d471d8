"""Sequences of ragged requests: no batch axis, no padding."""

import numpy as np
import pytest

from seqlens.api.ragged import check_sequence, text_tensor
from seqlens.api.requests import LengthLimits, NamedTensor
from seqlens.errors import InvalidRequest, SequenceTooLong
from seqlens.graphs.anatomy import Architecture, InputAnatomy, InputRole, ModelAnatomy

IDS = InputAnatomy("ids", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, 100)
LENGTHS = InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, batch_axis=0)
FEATURES = InputAnatomy("x", "FP32", (-1, -1, 3), InputRole.SEQUENCE, 1, 0)
STATE = InputAnatomy("h", "FP32", (2, -1, 4), InputRole.STATE, 1)
LIMITS = LengthLimits(5)


def model(*inputs: InputAnatomy) -> ModelAnatomy:
    return ModelAnatomy(inputs, (), Architecture.RNN, (), "O(n)")


def tensor(name: str, values: object, dtype: str = "int64") -> NamedTensor:
    datatypes = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float64": "FP64"}
    return NamedTensor(name, datatypes[dtype], np.array(values, dtype=dtype))


def test_integers_of_any_width_become_the_models_own() -> None:
    sequence = check_sequence(model(IDS, LENGTHS), [tensor("ids", [1, 2], "int32")], LIMITS)
    assert sequence.length == 2
    assert sequence.inputs["ids"].dtype == np.int64


def test_the_only_input_needs_no_name() -> None:
    assert set(check_sequence(model(IDS, LENGTHS), [tensor("", [1])], LIMITS).inputs) == {"ids"}


def test_a_state_may_come_along_or_stay_away() -> None:
    x = tensor("x", np.zeros((2, 3)), "float64")
    state = tensor("h", np.zeros((2, 4)), "float32")
    assert set(check_sequence(model(FEATURES, STATE), [x, state], LIMITS).inputs) == {"x", "h"}
    assert set(check_sequence(model(FEATURES, STATE), [x], LIMITS).inputs) == {"x"}


@pytest.mark.parametrize(
    ("tensors", "field", "got", "expected"),
    [
        ([tensor("ids", [])], "inputs.ids", "length 0", "at least one"),
        ([tensor("ids", [[1]])], "inputs.ids.shape", "rank 2", "[-1], rank 1"),
        ([tensor("ids", [1.5], "float32")], "inputs.ids", "FP32", "INT64"),
        ([tensor("ids", [1, 100])], "inputs.ids[1]", "100", "from 0 to 99"),
        ([tensor("lengths", 1)], "inputs.ids", "nothing", "INT64"),
        (
            [tensor("ids", [1]), tensor("lengths", 1)],
            "inputs.lengths",
            "lengths of a ragged sequence",
            "the server makes this input itself",
        ),
    ],
)
def test_bad_sequences_name_field_got_and_expected(
    tensors: list[NamedTensor], field: str, got: str, expected: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_sequence(model(IDS, LENGTHS), tensors, LIMITS)
    assert caught.value.field == field
    assert got in caught.value.got
    assert expected in caught.value.expected


def test_a_sequence_may_be_too_long() -> None:
    with pytest.raises(SequenceTooLong, match="got length 6, expected at most 5"):
        check_sequence(model(IDS), [tensor("ids", [1] * 6)], LIMITS)


def test_a_feature_that_is_not_a_number_is_refused() -> None:
    x = tensor("x", [[0, 0, np.nan]], "float32")
    with pytest.raises(InvalidRequest, match=r"inputs\.x\[0, 2\]: got nan"):
        check_sequence(model(FEATURES), [x], LIMITS)


def test_texts_go_to_the_one_input_of_token_ids() -> None:
    assert text_tensor(model(IDS, LENGTHS), np.array([1])).name == "ids"
    with pytest.raises(InvalidRequest, match=r"tensors: x FP32 \[-1, 3\]"):
        text_tensor(model(FEATURES), np.array([1]))


def test_an_input_that_is_left_out_gets_its_default() -> None:
    both = model(IDS, InputAnatomy("kinds", "INT32", (-1, -1), InputRole.SEQUENCE, 0, 1, default=1))
    kinds = check_sequence(both, [tensor("", [4, 5])], LIMITS).inputs["kinds"]
    assert (kinds.dtype, kinds.tolist()) == (np.int32, [1, 1])
    given = [tensor("ids", [4, 5]), tensor("kinds", [0, 2])]
    assert check_sequence(both, given, LIMITS).inputs["kinds"].tolist() == [0, 2]
    assert text_tensor(both, np.array([1])).name == "ids"
