import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.backends.padding import pad, sharing_key, unpad
from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.sequences import InputSequence

TOKENS = InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1)
LOGITS = OutputAnatomy("logits", "FP32", (-1, 4), OutputRole.PER_SEQUENCE, 0)


def model(*inputs, outputs=(LOGITS,), **more):
    return ModelAnatomy(
        inputs=inputs,
        outputs=outputs,
        architecture=Architecture.OTHER,
        evidence=(),
        sequential_depth="unknown",
        **more,
    )


def token_sequences(*lengths):
    return [InputSequence({"tokens": np.arange(1, n + 1)}, n) for n in lengths]


def place(axes):
    """The axis numbers of "batch" and "time" in an order such as ("time", "batch", 3)."""
    return [axes.index(name) if name in axes else None for name in ("batch", "time")]


@st.composite
def layouts(draw):
    """Any order of the axes, with up to two more of size 2 and 3, with or without batch axis."""
    axes = ["time", *draw(st.lists(st.sampled_from([2, 3]), max_size=2, unique=True))]
    if draw(st.booleans()):
        axes.append("batch")
    return draw(st.permutations(axes))


def as_sequence(name, shape, length, generator):
    return InputSequence({name: generator.standard_normal((length, *shape))}, length)


@given(layouts(), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3))
def test_an_identity_model_gives_every_row_back(axes, lengths, extra):
    batch_axis, time_axis = place(axes)
    lengths = lengths if batch_axis is not None else lengths[:1]
    sizes = tuple(-1 if isinstance(axis, str) else axis for axis in axes)
    x = InputAnatomy("x", "FP64", sizes, InputRole.SEQUENCE, batch_axis, time_axis)
    y = OutputAnatomy("x", "FP64", sizes, OutputRole.PER_STEP, batch_axis, (time_axis,))
    anatomy = model(x, outputs=(y,))
    inner = tuple(axis for axis in axes if not isinstance(axis, str))
    generator = np.random.default_rng(0)
    sequences = [as_sequence("x", inner, n, generator) for n in lengths]

    padded = max(lengths) + extra
    inputs = pad(anatomy, sequences, length=padded, fill=np.nan)
    answers = unpad(anatomy, inputs, lengths, length=padded)

    expected = {"batch": len(lengths), "time": padded}
    assert inputs["x"].shape == tuple(expected.get(axis, axis) for axis in axes)
    assert np.isnan(inputs["x"]).sum() == sum(padded - n for n in lengths) * np.prod(inner)
    for sequence, answer in zip(sequences, answers, strict=True):
        np.testing.assert_array_equal(answer["x"], sequence.inputs["x"])


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from(["real", "padding"]),
    st.sampled_from(["BOOL", "INT64", "INT32", "FP32", "FP16", "UINT8"]),
    st.booleans(),
)
def test_a_mask_marks_exactly_the_real_positions(lengths, marks, datatype, time_major):
    batch_axis, time_axis = (1, 0) if time_major else (0, 1)
    mask = InputAnatomy(
        "mask", datatype, (-1, -1), InputRole.MASK, batch_axis, time_axis, mask_marks=marks
    )
    made = pad(model(TOKENS, mask), token_sequences(*lengths))["mask"]

    assert made.dtype == NUMPY_TYPES[datatype]
    rows = made.T if time_major else made
    for row, length in zip(rows, lengths, strict=True):
        real = row.astype(bool) if marks == "real" else ~row.astype(bool)
        assert real.tolist() == [step < length for step in range(max(lengths))]


def test_a_mask_gets_the_rank_that_the_model_wants():
    mask = InputAnatomy("mask", "FP32", (-1, 1, 1, -1), InputRole.MASK, 0, 3, mask_marks="real")
    made = pad(model(TOKENS, mask), token_sequences(1, 3))["mask"]
    assert made.shape == (2, 1, 1, 3)
    assert made[:, 0, 0].tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("shape", "batch_axis", "expected"),
    [((-1,), 0, [2, 3]), ((-1, 1), 0, [[2], [3]]), ((1, -1), 1, [[2, 3]])],
)
def test_lengths_are_made_in_the_rank_that_the_model_wants(shape, batch_axis, expected):
    lengths = InputAnatomy("lengths", "INT32", shape, InputRole.LENGTHS, batch_axis)
    made = pad(model(TOKENS, lengths), token_sequences(2, 3))["lengths"]
    assert made.dtype == np.int32
    assert made.tolist() == expected


def test_a_scalar_length_stays_a_scalar():
    tokens = InputAnatomy("tokens", "INT64", (-1,), InputRole.SEQUENCE, None, 0)
    length = InputAnatomy("length", "INT64", (), InputRole.LENGTHS)
    made = pad(model(tokens, length), token_sequences(5))
    assert made["length"].shape == ()
    assert made["length"] == 5


def test_positions_count_up_in_every_row():
    positions = InputAnatomy("positions", "INT64", (-1, -1), InputRole.POSITIONS, 1, 0)
    made = pad(model(TOKENS, positions), token_sequences(1, 3))["positions"]
    assert made.T.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_mask_from_the_caller_is_not_replaced():
    mask = InputAnatomy("mask", "BOOL", (-1, -1), InputRole.MASK, 0, 1, mask_marks="real")
    holes = np.array([True, False, True])
    sequence = InputSequence({"tokens": np.arange(3), "mask": holes}, 3)
    assert pad(model(TOKENS, mask), [sequence])["mask"].tolist() == [[True, False, True]]


def test_the_fill_stands_only_in_the_padding_of_sequence_inputs():
    kinds = InputAnatomy("kinds", "INT64", (-1, -1), InputRole.OTHER, 0, 1)
    sequences = [
        InputSequence({"tokens": np.full(n, 1), "kinds": np.full(n, 2)}, n) for n in (1, 2)
    ]
    made = pad(model(TOKENS, kinds), sequences, fill={"tokens": 7})
    assert made["tokens"].tolist() == [[1, 7], [1, 1]]
    assert made["kinds"].tolist() == [[2, 0], [2, 2]]


def test_recurrent_state_starts_at_zero_unless_a_sequence_brings_it():
    state = InputAnatomy("h", "FP16", (2, -1, 3), InputRole.STATE, 1, state_output="h_n")
    assert pad(model(TOKENS, state), token_sequences(1, 2))["h"].shape == (2, 2, 3)
    carried = InputSequence({"tokens": np.arange(2), "h": np.ones((2, 3), np.float16)}, 2)
    made = pad(model(TOKENS, state), [carried])["h"]
    assert made.shape == (2, 1, 3)
    assert made.dtype == np.float16
    assert made.all()


def test_a_state_of_unknown_size_is_refused():
    state = InputAnatomy("h", "FP32", (2, -1, -1), InputRole.STATE, 1, state_output="h_n")
    with pytest.raises(ValueError, match="size of state 'h' is not known"):
        pad(model(TOKENS, state), token_sequences(1))


def test_attention_is_cut_on_both_time_axes():
    weights = OutputAnatomy("weights", "FP32", (-1, 2, -1, -1), OutputRole.ATTENTION, 0, (2, 3))
    array = np.random.default_rng(1).random((2, 2, 5, 5))
    short, full = unpad(model(TOKENS, outputs=(weights,)), {"weights": array}, [3, 5])
    np.testing.assert_array_equal(short["weights"], np.moveaxis(array[0, :, :3, :3], 1, 0))
    np.testing.assert_array_equal(full["weights"], np.moveaxis(array[1], 1, 0))


def test_outputs_per_sequence_lose_only_the_batch_axis():
    hidden = OutputAnatomy("hidden", "FP32", (2, -1, 3), OutputRole.STATE, 1)
    array = np.random.default_rng(2).random((2, 4, 3))
    answers = unpad(model(TOKENS, outputs=(hidden,)), {"hidden": array}, [1, 2, 3, 3])
    for row, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["hidden"], array[:, row])


def test_a_time_axis_of_another_size_is_left_whole():
    pooled = OutputAnatomy("pooled", "FP32", (-1, -1), OutputRole.PER_STEP, 0, (1,))
    answers = unpad(model(TOKENS, outputs=(pooled,)), {"pooled": np.ones((2, 3))}, [4, 6])
    assert [answer["pooled"].shape for answer in answers] == [(3,), (3,)]


def test_a_frozen_length_is_always_filled_up():
    anatomy = model(TOKENS, fixed_length=4)
    assert pad(anatomy, token_sequences(2))["tokens"].tolist() == [[1, 2, 0, 0]]
    with pytest.raises(ValueError, match="length 5 does not fit in 4"):
        pad(anatomy, token_sequences(5))


def test_two_sequences_are_refused_without_a_batch_axis():
    tokens = InputAnatomy("tokens", "INT64", (-1,), InputRole.SEQUENCE, None, 0)
    with pytest.raises(ValueError, match="without a batch axis"):
        pad(model(tokens), token_sequences(2, 2))


def test_the_key_tells_apart_what_cannot_share_a_run():
    scale = InputAnatomy("scale", "FP32", (), InputRole.OTHER)
    memory = InputAnatomy("memory", "FP32", (-1, -1, -1), InputRole.OTHER, 0, 1)
    anatomy = model(TOKENS, scale, memory)

    def key(length, scale, memory_shape):
        inputs = {
            "tokens": np.arange(length),
            "scale": np.float32(scale),
            "memory": np.zeros(memory_shape, np.float32),
        }
        return sharing_key(anatomy, InputSequence(inputs, length))

    assert key(3, 1, (3, 2)) == key(5, 1, (5, 2))
    assert key(3, 1, (3, 2)) != key(3, 2, (3, 2))  # another value of a shared input
    assert key(3, 1, (3, 2)) != key(3, 1, (3, 4))  # another number of features
    assert key(3, 1, (7, 2)) == key(5, 1, (7, 2))  # a time axis of its own, of equal size
    assert key(3, 1, (7, 2)) != key(3, 1, (8, 2))


def test_numbers_stay_arrays_on_the_way_in_and_out() -> None:
    rate = InputAnatomy("rate", "INT64", (), InputRole.OTHER)
    score = OutputAnatomy("score", "FP32", (-1,), OutputRole.PER_SEQUENCE, 0)
    anatomy = model(TOKENS, rate, outputs=(score,))
    sequence = InputSequence({"tokens": np.arange(3), "rate": np.array(16_000)}, 3)
    given_rate = pad(anatomy, [sequence])["rate"]
    answer = unpad(anatomy, {"score": np.zeros(1, np.float32)}, [3])[0]["score"]
    assert isinstance(given_rate, np.ndarray)
    assert isinstance(answer, np.ndarray)
    assert given_rate.shape == answer.shape == ()
