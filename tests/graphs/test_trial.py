"""Trial inputs fit the anatomy: full length, nothing hidden, ids within their table."""

from typing import Any

import numpy as np

from seqlens.graphs.anatomy import Architecture, InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.trial import trial_inputs

ANY = (-1, -1)


def anatomy(*inputs: InputAnatomy, **sizes: Any) -> ModelAnatomy:
    return ModelAnatomy(inputs, (), Architecture.OTHER, (), "unknown", **sizes)


def test_every_role_gets_values_of_its_own() -> None:
    inputs = trial_inputs(
        anatomy(
            InputAnatomy("ids", "INT64", ANY, InputRole.SEQUENCE, 1, 0, vocabulary_size=5),
            InputAnatomy("features", "FP32", (-1, -1, 3), InputRole.SEQUENCE, 0, 1),
            InputAnatomy("lengths", "INT32", (-1,), InputRole.LENGTHS, 0),
            InputAnatomy("real", "INT64", ANY, InputRole.MASK, 0, 1, mask_marks="real"),
            InputAnatomy("padding", "BOOL", ANY, InputRole.MASK, 0, 1, mask_marks="padding"),
            InputAnatomy("places", "INT64", ANY, InputRole.POSITIONS, 0, 1),
            InputAnatomy("state", "FP32", (2, -1, 4), InputRole.STATE, 1),
            InputAnatomy("rate", "INT64", (), InputRole.OTHER, trial_value=16_000),
        ),
        rows=2,
        length=9,
    )
    assert inputs["ids"].shape == (9, 2)
    assert 0 <= inputs["ids"].min() <= inputs["ids"].max() < 5
    assert inputs["features"].shape == (2, 9, 3)
    assert inputs["features"].dtype == np.float32
    np.testing.assert_array_equal(inputs["lengths"], [9, 9])
    assert inputs["real"].all()
    assert not inputs["padding"].any()
    np.testing.assert_array_equal(inputs["places"], [range(9)] * 2)
    assert inputs["state"].shape == (2, 2, 4)
    assert inputs["rate"] == 16_000


def test_frozen_sizes_win() -> None:
    ids = InputAnatomy("ids", "INT64", (1, 6), InputRole.SEQUENCE, 0, 1, vocabulary_size=5)
    inputs = trial_inputs(anatomy(ids, fixed_batch=1, fixed_length=6), rows=3, length=9)
    assert inputs["ids"].shape == (1, 6)


def test_the_same_seed_gives_the_same_inputs() -> None:
    model = anatomy(InputAnatomy("x", "FP32", ANY, InputRole.SEQUENCE, 0, 1))
    first, same, other = (trial_inputs(model, 2, 4, seed=seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_inputs_may_have_lengths_of_their_own() -> None:
    model = anatomy(
        InputAnatomy("tokens", "INT64", ANY, InputRole.SEQUENCE, 0, 1, vocabulary_size=5),
        InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
        InputAnatomy("source", "FP32", (-1, -1, 3), InputRole.SEQUENCE, 0),
    )
    inputs = trial_inputs(model, 2, 5, lengths={"source": 11})
    assert inputs["tokens"].shape == (2, 5)
    assert inputs["source"].shape == (2, 11, 3)
    np.testing.assert_array_equal(inputs["lengths"], [5, 5])
