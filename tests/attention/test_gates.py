"""Gates: against the equations, unit by unit, and the products that tell what is kept."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.numpy_recurrent import NumpyRecurrent, recurrent, sigmoid, tokens

from seqlens.attention.gates import held_gate_bytes, predicted_gate_bytes, read_gates
from seqlens.attention.questions import GateLayer, GateQuestion, GateReading
from seqlens.attention.runs import CallerLeft
from seqlens.backends.tapped import Look, Seen, Tap
from seqlens.errors import InvalidRequest, NotInModel
from seqlens.graphs.anatomy import AttentionSite
from seqlens.sequences import Tensors

FULL = GateQuestion(full=True)
SEQUENCES = [tokens(9), tokens(4, 1), tokens(9, 2)]


def read(
    model: NumpyRecurrent, question: GateQuestion = FULL, *, together: bool = True
) -> list[GateLayer]:
    return list(read_gates(model, SEQUENCES, question, together=together))


def reading(layer: GateLayer, sequence: int, gate: str) -> GateReading:
    (found,) = (r for r in layer.readings if (r.sequence, r.gate) == (sequence, gate))
    return found


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("model", "gates"),
    [
        (recurrent("lstm", layers=2), ["input", "forget", "output", "cell", "forget_product"]),
        (
            recurrent("lstm", directions=(False, True), peepholes=True),
            ["input", "forget", "output", "cell", "forget_product"],
        ),
        (
            recurrent("gru", layers=2, directions=(False, True)),
            ["update", "reset", "new", "update_product"],
        ),
        (
            recurrent("gru", linear_before_reset=False),
            ["update", "reset", "new", "update_product"],
        ),
    ],
)
def test_gates_give_the_hidden_states_of_the_model(
    model: NumpyRecurrent, gates: list[str], together: bool
) -> None:
    layers = read(model, together=together)
    assert [(one.layer, one.direction) for one in layers] == [
        (direction.layer, "reverse" if direction.reverse else "forward")
        for layer in model.layers
        for direction in layer
    ]
    for layer in layers:
        assert layer.recomputed_error < 1e-14
        assert [(r.sequence, r.gate) for r in layer.readings] == [
            (number, gate) for number in range(3) for gate in gates
        ]
        assert [r.values.shape for r in layer.readings] == [
            (one.length, layer.units) for one in SEQUENCES for _ in gates
        ]


def test_lstm_gates_at_each_step_are_those_of_the_equations() -> None:
    model = recurrent("lstm")
    (weights,), (layer,) = model.layers[0], read(model)
    ids = SEQUENCES[1].inputs["tokens"]
    inputs = {"tokens": ids[None], "lengths": np.array([len(ids)])}
    states = model.run(inputs, Look(hidden=True)).hidden[0]
    before = np.concatenate([np.zeros((1, 5)), states[:-1]])
    sums = model.embedding[ids] @ weights.w.T + before @ weights.r.T + weights.wb + weights.rb
    for gate, part in zip(("input", "output", "forget"), np.split(sums, 4, axis=1), strict=False):
        values = reading(layer, 1, gate).values
        np.testing.assert_allclose(values, sigmoid(part), rtol=1e-6)
    np.testing.assert_allclose(reading(layer, 1, "cell").values, np.tanh(sums[:, 15:]), rtol=1e-6)


def test_the_forget_product_is_what_is_left_of_the_first_step() -> None:
    (layer,) = read(recurrent("lstm"))
    forget, product = (reading(layer, 0, g).values for g in ("forget", "forget_product"))
    expected = np.concatenate([np.ones((1, 5)), np.cumprod(forget[1:], axis=0)])
    np.testing.assert_allclose(product, expected, rtol=1e-5)


def test_the_product_of_a_reverse_layer_runs_from_the_last_position() -> None:
    (layer,) = read(recurrent("gru", directions=(True,)))
    update, product = (reading(layer, 1, g).values for g in ("update", "update_product"))
    expected = np.concatenate([np.cumprod(update[2::-1], axis=0)[::-1], np.ones((1, 5))])
    np.testing.assert_allclose(product, expected, rtol=1e-5)


def test_steps_beyond_the_sequence_are_cut() -> None:
    class Padding(NumpyRecurrent):  # ignores the lengths, as a net without them does
        def run(self, inputs: Tensors, look: Look) -> Seen:
            full = np.full_like(inputs["lengths"], inputs["tokens"].shape[1])
            return super().run({**inputs, "lengths": full}, look)

    model = Padding(**vars(recurrent("lstm", directions=(False, True), fixed_length=12)))
    forward, reverse = read(model)
    assert reading(forward, 1, "forget").mean.shape == (4,)
    assert reading(reverse, 1, "forget").mean.shape == (4,)
    assert max(forward.recomputed_error, reverse.recomputed_error) < 1e-14
    assert (reading(reverse, 1, "forget_product").values[-1] < 1).all()  # padding came before it


def test_summaries_are_over_units() -> None:
    question = GateQuestion(quantiles=(0.0, 0.5, 1.0))
    (full,), (short,) = (
        read(recurrent("lstm"), replace(question, full=full)) for full in (True, False)
    )
    for one, other in zip(full.readings, short.readings, strict=True):
        assert other.values is None
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_allclose(other.mean, one.values.mean(axis=1), atol=1e-6)
        least, middle, most = other.quantiles
        np.testing.assert_array_equal(least, one.values.min(axis=1))
        np.testing.assert_array_equal(most, one.values.max(axis=1))
        np.testing.assert_array_equal(middle, np.median(one.values, axis=1))


def test_no_quantiles_are_no_rows() -> None:
    (layer,) = read(recurrent("lstm"), GateQuestion(quantiles=()))
    assert reading(layer, 0, "input").quantiles.shape == (0, 9)


def test_layers_are_chosen_by_number_and_from_the_end() -> None:
    model = recurrent("lstm", layers=3, directions=(False, True))
    layers = read(model, GateQuestion(layers=(-1, 0)))
    assert [(one.layer, one.direction) for one in layers] == [
        (0, "forward"), (0, "reverse"), (2, "forward"), (2, "reverse"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (GateQuestion(layers=(2,)), "layers: got 2, expected from -2 to 1"),
        (GateQuestion(layers=(-3,)), "got -3"),
        (GateQuestion(quantiles=(0.5, 1.5)), "quantiles: got 1.5, expected from 0 to 1"),
        (GateQuestion(quantiles=(float("nan"),)), "got nan"),
    ],
)
def test_what_is_not_there_is_refused(question: GateQuestion, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read(recurrent("gru", layers=2), question)


def test_a_net_without_gates_says_what_it_has() -> None:
    with pytest.raises(NotInModel, match=r"RNN layers, which have no gates; it offers influence$"):
        read(recurrent("rnn"))
    model = recurrent("rnn", recurrent_layers=())
    site = AttentionSite("softmax", 0, "self", "Softmax")
    model.taps = (Tap(site, measured=True, replaceable=True),)
    with pytest.raises(NotInModel, match="no recurrent layers; it offers influence and attention"):
        read(model)


def test_unusual_activations_are_named() -> None:
    class Unusual(NumpyRecurrent):
        def run(self, inputs: Tensors, look: Look) -> Seen:
            seen = super().run(inputs, look)
            traces = (replace(t, activations=("HardSigmoid", "Tanh")) for t in seen.recurrences)
            return replace(seen, recurrences=tuple(traces))

    with pytest.raises(NotInModel, match="unusual activations: HardSigmoid, Tanh"):
        read(Unusual(**vars(recurrent("gru"))))


@pytest.mark.parametrize("question", [FULL, GateQuestion(), GateQuestion((-1,), (), full=True)])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bytes_are_predicted_exactly(cell: str, question: GateQuestion) -> None:
    model = recurrent(cell, layers=2, directions=(False, True))
    arrays = [
        array
        for layer in read(model, question)
        for one in layer.readings
        for array in (one.mean, one.quantiles, one.values)
        if array is not None
    ]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    size = predicted_gate_bytes(model.anatomy, question, [one.length for one in SEQUENCES])
    assert size == sum(array.nbytes for array in arrays)


def test_sequences_of_one_length_share_a_run() -> None:
    model = recurrent("lstm")
    read(model)
    assert sorted(model.batches) == [1, 2]
    model.batches.clear()
    read(model, together=False)
    assert model.batches == [1, 1, 1]


def test_what_layers_hold_at_each_step_is_told_beforehand() -> None:
    model = recurrent("lstm", layers=2)
    units = model.anatomy.recurrent_layers[0].hidden_size
    assert units
    layers = sum(one.layers for one in model.anatomy.recurrent_layers)
    assert held_gate_bytes(model.anatomy, [9, 4]) == 13 * layers * 3 * units * 4


@pytest.mark.parametrize("stays", [0, 1, 4])
def test_a_caller_that_leaves_stops_the_reading(stays: int) -> None:
    asked = iter([False] * stays)
    reading = read_gates(
        recurrent("lstm"), SEQUENCES, FULL, together=True, cancelled=lambda: next(asked, True)
    )
    with pytest.raises(CallerLeft):
        list(reading)
