"""Influence as a whole: what is asked, what it costs, shares, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_recurrent import VOCABULARY, features, recurrent, tokens

from seqlens.attention.forecast import fitting_columns, predict, timed, watched
from seqlens.attention.influence import measure, shares_of
from seqlens.attention.questions import Cost, InfluenceQuestion, Measure, Target
from seqlens.attention.runs import CallerLeft
from seqlens.attention.subject import vector_axes
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.errors import InvalidRequest, NotInModel
from seqlens.graphs.anatomy import OutputAnatomy, OutputRole
from seqlens.sequences import InputSequence, Tensors

BOTH = InfluenceQuestion(("occlusion", "jacobian"))
NONE = Cost(0, 0.0)
SIZES = st.floats(0, 1e30, allow_subnormal=True)


def ask(model: TappedModel, question: InfluenceQuestion, *lengths: int):
    sequences = [tokens(length, seed) for seed, length in enumerate(lengths)]
    return measure(model, sequences, question, together=True, cost=NONE)


def test_there_is_a_map_of_each_measure_for_each_sequence() -> None:
    answer = ask(recurrent(), BOTH, 5, 8)
    assert [(one.sequence, one.measure) for one in answer.maps] == [
        (0, "occlusion"), (0, "jacobian"), (1, "occlusion"), (1, "jacobian"),
    ]  # fmt: skip
    assert [one.values.shape for one in answer.maps] == [(5, 5), (5, 5), (8, 8), (8, 8)]
    assert {one.values.dtype for one in answer.maps} == {np.dtype(np.float32)}
    assert answer.target == Target("logits")


def test_a_target_without_positions_has_one_row() -> None:
    (one,) = ask(recurrent(per_step=False), InfluenceQuestion(input_positions=(-1, 0)), 7).maps
    assert (one.output_positions, one.input_positions) == ((), (6, 0))
    assert one.values.shape == one.shares.shape == (1, 2)
    assert one.floors.shape == (1,)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("target", [Target("hidden"), Target("logits", predicted_class=True)])
def test_what_is_predicted_is_what_is_run(target: Target, exact: bool, together: bool) -> None:
    question = replace(BOTH, target=target, exact=exact, directions=3, input_positions=(0, 2, -1))
    model = recurrent("lstm")
    cost = predict(model, question, [40, 7], lambda length, rows: 1.0, together=together)
    model.batches.clear()
    sequences = [tokens(40), tokens(7)]
    answer = measure(model, sequences, question, together=together, cost=cost)
    assert answer.predicted == cost
    assert answer.taken.runs == cost.runs
    arrays = [array for one in answer.maps for array in (one.values, one.shares, one.floors)]
    assert cost.bytes == sum(array.nbytes for array in arrays)
    assert 0 < answer.taken.seconds < 30


def test_rows_share_runs_and_long_ones_fewer() -> None:
    seen: list[tuple[int, int]] = []

    def forward_seconds(length: int, rows: int) -> float:
        seen.append((length, rows))
        return 0.5

    cost = predict(recurrent(), InfluenceQuestion(), [20, 1_000], forward_seconds)
    assert seen == [(20, 1), (20, 32), (1_000, 1), (1_000, 4)]
    assert cost.runs == 1 + -(-20 * 4 // 31) + 1 + -(-1_000 * 4 // 3)
    assert cost.seconds == 0.5 * cost.runs


@pytest.mark.parametrize("measures", [("occlusion",), ("jacobian",)])
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_work_stops_when_the_caller_has_left(measures: tuple, allowed: int) -> None:
    model, asked = recurrent(), []

    def cancelled() -> bool:
        asked.append(len(model.batches))
        return len(asked) > allowed

    with pytest.raises(CallerLeft):
        measure(
            model, [tokens(40)], InfluenceQuestion(measures), together=True, cost=NONE,
            cancelled=cancelled,
        )  # fmt: skip
    assert len(asked) == allowed + 1
    assert len(model.batches) == asked[-1]  # not one run after the caller was seen to have left


def test_the_closed_form_stops_too() -> None:
    question = replace(BOTH, measures=("jacobian",), target=Target("hidden"), exact=True)
    answers = iter([False, True])
    with pytest.raises(CallerLeft):
        measure(
            recurrent(), [tokens(5)], question, together=True, cost=NONE,
            cancelled=lambda: next(answers),
        )  # fmt: skip


@given(st.lists(st.lists(SIZES, min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_shares_sum_to_one_or_are_all_below_the_floor(rows: list, data: st.DataObject) -> None:
    values = np.array(rows)
    floors = np.array(data.draw(st.lists(SIZES, min_size=len(rows), max_size=len(rows))))
    shares = shares_of(values, floors)
    known = values > floors[:, None]
    assert not shares[~known].any()
    np.testing.assert_allclose(shares.sum(axis=1), known.any(axis=1), rtol=1e-9)
    assert (shares >= 0).all()


def test_an_output_that_mixes_the_batch_is_measured_one_row_at_a_time() -> None:
    model = recurrent(per_step=False)
    output = replace(model.anatomy.outputs[0], batch_axis=None, shape=(1, 4))
    model.anatomy = replace(model.anatomy, outputs=(output,))
    ask(model, InfluenceQuestion(), 5)
    assert set(model.batches) == {1}


class Masked:
    """Logits that are minus infinity where no class may be, and a model of fixed length."""

    def __init__(self, model: TappedModel, **anatomy: object) -> None:
        self.model, self.anatomy = model, replace(model.anatomy, **anatomy)
        self.lengths: set[int] = set()

    def run(self, inputs: Tensors, look: Look) -> Seen:
        self.lengths.add(inputs["tokens"].shape[1])
        seen = self.model.run(inputs, look)
        seen.outputs["logits"][..., 1] = -np.inf
        return seen

    def gradient(self, *_: object) -> None:
        return None


def test_masked_logits_do_not_move() -> None:
    whole, one = (
        ask(Masked(recurrent()), InfluenceQuestion(target=target), 5).maps[0].values
        for target in (Target(), Target(class_index=1))
    )
    assert np.isfinite(whole).all()
    assert (np.diag(whole) > 0).all()
    assert not one.any()


def test_a_model_of_fixed_length_is_padded() -> None:
    model = Masked(recurrent(layers=2), fixed_length=9)
    question = replace(BOTH, target=Target("hidden"))
    fixed, plain = ask(model, question, 6).maps, ask(recurrent(layers=2), question, 6).maps
    assert model.lengths == {9}
    for one, other in zip(fixed, plain, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


class Prefixed(Masked):
    """Answers with one row more than there are positions: a mean comes first."""

    def run(self, inputs: Tensors, look: Look) -> Seen:
        seen = self.model.run(inputs, look)
        logits = seen.outputs["logits"]
        mean = logits.mean(axis=1, keepdims=True)
        return replace(seen, outputs={"logits": np.concatenate([mean, logits], axis=1)})


def test_a_target_of_more_rows_than_positions_shows_all_of_them() -> None:
    model = Prefixed(recurrent())
    cost = predict(model, InfluenceQuestion(), [5, 7], lambda length, rows: 1.0)
    sequences = [tokens(5), tokens(7)]
    answer = measure(model, sequences, InfluenceQuestion(), together=True, cost=cost)
    assert [one.values.shape for one in answer.maps] == [(6, 5), (8, 7)]
    assert (answer.maps[1].values[0] > 0).all()
    assert not np.triu(answer.maps[1].values[1:], 1).any()
    assert answer.taken.runs == cost.runs
    short = ask(model, InfluenceQuestion(output_positions=(6,)), 5).errors[0]
    assert str(short) == "output_positions: got 6, expected from -6 to 5"


class Broken(Masked):
    def run(self, inputs: Tensors, look: Look) -> Seen:
        seen = self.model.run(inputs, look)
        seen.outputs["logits"][inputs["tokens"] == 7] = np.nan
        return seen


def test_answers_that_are_no_numbers_are_not_compared() -> None:
    answer = ask(Broken(recurrent()), InfluenceQuestion(replacement_tokens=(7,)), 4)
    assert "not finite" in str(answer.errors[0])
    assert not answer.maps


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (InfluenceQuestion(input_positions=(6,)), "input_positions: got 6, expected from -6 to 5"),
        (InfluenceQuestion(input_positions=(0, -7)), "input_positions: got -7"),
        (InfluenceQuestion(output_positions=(6,)), "output_positions: got 6"),
        (InfluenceQuestion(("jacobian",), input_positions=(6,), exact=True), "got 6"),
    ],
)
def test_a_position_that_one_sequence_does_not_have_costs_the_others_nothing(
    question: InfluenceQuestion, message: str
) -> None:
    model, by_distance = recurrent(), replace(question, by_distance=True)
    cost = predict(model, by_distance, [9, 6], lambda length, rows: 1.0)
    assert cost == predict(model, by_distance, [9], lambda length, rows: 1.0)
    mixed, alone = ask(model, by_distance, 9, 6), ask(model, by_distance, 9)
    assert list(mixed.errors) == [1]
    assert message in str(mixed.errors[1])
    (one,), (expected,) = mixed.maps, alone.maps
    np.testing.assert_array_equal(one.values, expected.values)
    np.testing.assert_array_equal(mixed.by_distance[0].counts, alone.by_distance[0].counts)


def test_positions_asked_for_twice_are_looked_at_once() -> None:
    question = InfluenceQuestion(input_positions=(0, 0, -4), output_positions=(3, -1))
    (one,) = ask(recurrent(), question, 4).maps
    assert (one.output_positions, one.input_positions) == ((3,), (0,))


@pytest.mark.parametrize("measure_name", ["occlusion", "jacobian"])
def test_as_many_positions_as_fit_a_time_do_fit(measure_name: Measure) -> None:
    model, lengths = recurrent(), [50, 8]

    def forward_seconds(length: int, rows: int) -> float:
        return 1e-3 * length * rows

    def seconds(columns: int) -> float:
        positions = tuple(range(columns))
        question = InfluenceQuestion((measure_name,), input_positions=positions)
        costs = (
            predict(model, replace(question, input_positions=positions[:length]), [length],
                    forward_seconds) for length in lengths
        )  # fmt: skip
        return sum(cost.seconds for cost in costs)

    question = InfluenceQuestion((measure_name,))
    for most in (3.0, 7.0):
        fitting = fitting_columns(model, question, lengths, forward_seconds, most)
        assert seconds(fitting) <= most < seconds(fitting + 1)
    assert fitting_columns(model, question, lengths, forward_seconds, 1e-6) == 0
    assert fitting_columns(model, question, lengths, forward_seconds, 1e6) == 50


def test_a_forecast_is_put_right_by_a_run_of_the_length() -> None:
    model = recurrent()
    right = timed(model, InfluenceQuestion(), 30, lambda length, rows: 1e6 * length * rows)
    assert 0 < right(30, 1) < 10
    assert right(60, 4) == pytest.approx(8 * right(30, 1))


def test_what_looking_in_takes_beside_a_run_is_added_to_each() -> None:
    model, question = recurrent(), InfluenceQuestion()
    right = watched(model, question, 9, lambda length, rows: 1e-9 * length)
    beside = right(9, 1) - 9e-9
    assert 0 < beside < 10
    assert right(2_000, 4) == pytest.approx(2e-6 + beside)
    slow = watched(model, question, 9, lambda length, rows: 100.0)
    assert slow(9, 1) == 100


def test_more_directions_than_vectors_have_numbers_take_no_longer() -> None:
    def runs(directions: int) -> int:
        question = InfluenceQuestion(("jacobian",), directions=directions)
        return predict(recurrent(width=5), question, [9], lambda length, rows: 1.0).runs

    assert runs(2**32 - 1) == runs(5) > runs(2)


def test_more_replacements_than_there_are_tokens_take_no_longer() -> None:
    def runs(replacements: int) -> int:
        question = InfluenceQuestion(replacements=replacements)
        return predict(recurrent(), question, [9], lambda length, rows: 1.0).runs

    assert runs(2**32 - 1) == runs(VOCABULARY) > runs(2)


INTEGERS = (OutputAnatomy("ids", "INT64", (-1, -1), OutputRole.PER_STEP, 0, (1,)),)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (InfluenceQuestion(target=Target("nope")), "one of 'logits', 'ids', 'hidden'"),
        (InfluenceQuestion(target=Target("ids")), "floating point"),
        (InfluenceQuestion(target=Target(class_index=4)), "from 0 to 3"),
        (InfluenceQuestion(target=Target(class_index=-1)), "from 0 to 3"),
        (InfluenceQuestion(target=Target("hidden", class_index=5)), "from 0 to 4"),
        (InfluenceQuestion(target=Target("", 1, True)), "expected one"),
        (InfluenceQuestion(replacements=0), "at least 1"),
        (InfluenceQuestion(directions=0), "at least 1"),
        (InfluenceQuestion(("gradient",)), "occlusion or jacobian"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    question: InfluenceQuestion, message: str
) -> None:
    model = recurrent()
    model.anatomy = replace(model.anatomy, outputs=(*model.anatomy.outputs, *INTEGERS))
    with pytest.raises(InvalidRequest, match=message):
        predict(model, question, [9, 6], lambda length, rows: 1.0)
    with pytest.raises(InvalidRequest, match=message):
        ask(model, question, 9, 6)


def test_a_target_without_positions_has_none_to_choose() -> None:
    with pytest.raises(InvalidRequest, match="one answer for the whole sequence"):
        ask(recurrent(per_step=False), InfluenceQuestion(output_positions=(0,)), 4)


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_sequences_without_positions_are_refused(lengths: Sequence[int]) -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        predict(recurrent(), InfluenceQuestion(), lengths, lambda length, rows: 1.0)


def test_a_quantised_model_has_no_derivative() -> None:
    model = recurrent(precision="int8")
    assert ask(model, InfluenceQuestion(), 4).maps
    with pytest.raises(NotInModel, match="measure occlusion instead"):
        ask(model, BOTH, 4)


def test_a_model_without_positions_is_refused() -> None:
    model = recurrent()
    inputs = tuple(replace(one, time_axis=None) for one in model.anatomy.inputs)
    model.anatomy = replace(model.anatomy, inputs=inputs)
    with pytest.raises(NotInModel, match="no positions"):
        ask(model, InfluenceQuestion(), 4)


@pytest.mark.parametrize(
    ("one", "two", "batch", "time"),
    [
        ((1, 7, 32), (2, 7, 32), 0, 1),
        ((7, 1, 32), (7, 2, 32), 1, 0),
        ((1, 7, 7), (2, 7, 7), 0, 1),
        ((1, 32, 7), (2, 32, 7), 0, 2),
        ((3, 7, 32), (3, 7, 32), 0, 1),  # a frozen batch: as the input has it
    ],
)
def test_axes_of_vectors(one: tuple, two: tuple, batch: int, time: int) -> None:
    axes = vector_axes(one, two, 7, features()[0])
    assert (axes.batch, axes.time) == (batch, time)


@pytest.mark.parametrize(("one", "two"), [((7, 32), (14, 32)), ((1, 9, 32), (2, 9, 32))])
def test_vectors_that_do_not_follow_positions_are_refused(one: tuple, two: tuple) -> None:
    with pytest.raises(NotInModel, match="an axis each"):
        vector_axes(one, two, 7, features()[0])


def test_features_alone_have_no_embedding_to_look_at() -> None:
    model = recurrent(inputs=features())
    vectors = np.random.default_rng(0).standard_normal((4, 6))
    answer = measure(
        model, [InputSequence({"vectors": vectors}, 4)], BOTH, together=True, cost=NONE
    )
    assert [one.method for one in answer.maps] == ["replacement", "central_differences"]
