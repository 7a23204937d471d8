"""Central differences: against the closed form, and what rounding makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.numpy_recurrent import features, recurrent, tokens

from seqlens.attention.influence import measure
from seqlens.attention.jacobian import orthonormal
from seqlens.attention.questions import Cost, InfluenceMap, InfluenceQuestion, Target
from seqlens.backends.tapped import TappedModel
from seqlens.sequences import InputSequence

NONE = Cost(0, 0.0)
HIDDEN = InfluenceQuestion(("jacobian",), Target("hidden"), directions=6)


def ask(
    model: TappedModel, question: InfluenceQuestion, one: InputSequence, *, together: bool = True
) -> InfluenceMap:
    return measure(model, [one], question, together=together, cost=NONE).maps[0]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_all_directions_give_the_norm(cell: str) -> None:
    model = recurrent(cell, layers=2, directions=(False, True))
    near, exact = (ask(model, replace(HIDDEN, exact=exact), tokens(9)) for exact in (False, True))
    assert (near.method, exact.method) == ("central_differences", "closed_form")
    np.testing.assert_allclose(near.values, exact.values, rtol=2e-3)  # the net is bent, at 3 %


def test_few_directions_estimate_the_norm() -> None:
    model = recurrent("lstm", width=24, units=16, scale=0.3)
    few = ask(model, replace(HIDDEN, directions=4), tokens(12))
    exact = ask(model, replace(HIDDEN, exact=True), tokens(12))
    rows, columns = np.tril_indices(12)  # causal
    ratio = few.values[rows, columns] / exact.values[rows, columns]
    assert np.median(np.abs(ratio - 1)) < 0.2
    assert ratio.max() < 2
    assert ratio.min() > 0.5


def test_directions_are_orthonormal_and_always_the_same() -> None:
    ways = orthonormal(4, 10)
    np.testing.assert_allclose(ways @ ways.T, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(ways, orthonormal(4, 10))
    assert orthonormal(8, 3).shape == (3, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_later_positions_of_a_causal_net_have_exactly_no_influence(dtype: type) -> None:
    values = ask(recurrent("gru", layers=2, dtype=dtype), HIDDEN, tokens(12)).values
    assert not np.triu(values, 1).any()
    assert np.diag(values).all()


def test_a_position_that_the_net_forgets_has_exactly_no_influence() -> None:
    values = ask(recurrent("rnn", back=0.0), HIDDEN, tokens(8)).values
    assert not (values - np.diag(np.diag(values))).any()


def test_far_cells_that_float32_cannot_show_are_below_the_floor() -> None:
    question = replace(HIDDEN, output_positions=(-1,))
    rounded = ask(recurrent("rnn", dtype=np.float32, back=0.3), question, tokens(24))
    truth = ask(recurrent("rnn", back=0.3), replace(question, exact=True), tokens(24))
    assert 0 < truth.values.min() < 1e-8
    below = truth.values < rounded.floors[:, None] / 4
    assert below.sum() > 5
    assert not rounded.shares[below].any()
    assert (np.abs(rounded.values - truth.values) < rounded.floors[:, None] + 1e-3).all()
    assert rounded.shares.sum() == pytest.approx(1)


def test_features_are_their_own_vectors() -> None:
    model = recurrent("lstm", inputs=features())
    vectors = np.random.default_rng(1).standard_normal((7, 6))
    one = InputSequence({"vectors": vectors}, 7)
    near, exact = (ask(model, replace(HIDDEN, exact=exact), one) for exact in (False, True))
    assert (near.method, exact.method) == ("central_differences", "closed_form")
    np.testing.assert_allclose(near.values, exact.values, rtol=1e-3)


def test_one_row_a_run_gives_the_same() -> None:
    model = recurrent("gru", per_step=False)
    question = InfluenceQuestion(("jacobian",), directions=3)
    together = ask(model, question, tokens(6))
    model.batches.clear()
    alone = ask(model, question, tokens(6), together=False)
    assert set(model.batches[2:]) == {1}  # after the two that look what the model has
    np.testing.assert_allclose(alone.values, together.values, rtol=1e-6)
