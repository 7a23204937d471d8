"""Occlusion: what is put in, and how far answers move."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_recurrent import VOCABULARY, features, recurrent, tokens

from seqlens.attention.influence import measure
from seqlens.attention.occlusion import replacements
from seqlens.attention.questions import Cost, InfluenceMap, InfluenceQuestion, Target
from seqlens.backends.tapped import Look, TappedModel
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, InputRole
from seqlens.sequences import Array, InputSequence

NONE = Cost(0, 0.0)
TOKENS = InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, VOCABULARY)


def of(*ids: int) -> InputSequence:
    return InputSequence({"tokens": np.array(ids)}, len(ids))


def ask(
    model: TappedModel, question: InfluenceQuestion, one: InputSequence, *, together: bool = True
) -> InfluenceMap:
    return measure(model, [one], question, together=together, cost=NONE).maps[0]


def logits(model: TappedModel, ids: Array) -> Array:
    inputs = {"tokens": ids[None], "lengths": np.array([len(ids)])}
    return model.run(inputs, Look()).outputs["logits"][0]


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("element", [None, 2])
def test_values_are_mean_movements(per_step: bool, element: int | None) -> None:
    model = recurrent("lstm", per_step=per_step)
    question = InfluenceQuestion(target=Target(class_index=element), replacement_tokens=(3, 11, 7))
    ids = np.array([5, 8, 3, 9, 11])
    expected = np.zeros((5 if per_step else 1, 5))
    for position in range(5):
        others = [token for token in (3, 11, 7) if token != ids[position]]
        for token in others:
            copy = ids.copy()
            copy[position] = token
            change = np.atleast_2d(logits(model, copy) - logits(model, ids))
            moved = np.linalg.norm(change if element is None else change[:, [element]], axis=1)
            expected[:, position] += moved / len(others)
    found = ask(model, question, of(*ids))
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert found.method == "replacement"


def test_a_token_that_is_its_own_only_replacement_changes_nothing() -> None:
    found = ask(recurrent(), InfluenceQuestion(replacement_tokens=(8,)), of(5, 8, 3))
    assert not found.values[:, 1].any()
    assert found.values[2, 0] > 0


def test_the_predicted_class_is_that_of_the_sequence_as_it_is() -> None:
    model = recurrent("gru", per_step=False)
    largest = int(logits(model, np.array([1, 2, 3])).argmax())
    predicted, chosen = (
        ask(model, InfluenceQuestion(target=target), of(1, 2, 3)).values
        for target in (Target(predicted_class=True), Target(class_index=largest))
    )
    np.testing.assert_array_equal(predicted, chosen)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_later_positions_of_a_causal_net_have_exactly_no_influence(dtype: type) -> None:
    found = ask(recurrent("gru", layers=2, dtype=dtype), InfluenceQuestion(), tokens(12))
    assert not np.triu(found.values, 1).any()
    assert not np.triu(found.shares, 1).any()
    assert (np.diag(found.values) > found.floors).all()


def test_a_position_that_the_net_forgets_has_exactly_no_influence() -> None:
    found = ask(recurrent("rnn", back=0.0), InfluenceQuestion(), tokens(8))
    np.testing.assert_array_equal(found.shares, np.eye(8))


def test_features_are_replaced_by_vectors_of_other_positions() -> None:
    model = recurrent("lstm", inputs=features(), per_step=False)
    vectors = np.random.default_rng(1).standard_normal((3, 6))

    def answer(values: Array) -> Array:
        inputs = {"vectors": values[None], "lengths": np.array([3])}
        return model.run(inputs, Look()).outputs["logits"][0]

    moved = [answer(vectors[[k, 1, 2]]) - answer(vectors) for k in (1, 2)]
    found = ask(model, InfluenceQuestion(replacements=2), InputSequence({"vectors": vectors}, 3))
    assert found.values[0, 0] == pytest.approx(np.linalg.norm(moved, axis=1).mean(), rel=1e-6)


def test_one_row_a_run_gives_the_same() -> None:
    model = recurrent("rnn")
    together = ask(model, InfluenceQuestion(), tokens(6))
    model.batches.clear()
    alone = ask(model, InfluenceQuestion(), tokens(6), together=False)
    assert set(model.batches) == {1}
    np.testing.assert_allclose(alone.values, together.values, rtol=1e-6)


def test_a_batch_that_is_frozen_is_filled() -> None:
    plain = ask(recurrent("rnn"), InfluenceQuestion(), tokens(5))
    model = recurrent("rnn", fixed_batch=3)
    frozen = ask(model, InfluenceQuestion(), tokens(5))
    assert set(model.batches) == {3}
    np.testing.assert_allclose(frozen.values, plain.values, rtol=1e-6)


@given(
    ids=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    count=st.integers(1, 8),
)
def test_replacements_differ_and_those_of_the_sequence_come_first(
    ids: list[int], count: int
) -> None:
    found = replacements(TOKENS, of(*ids), InfluenceQuestion(replacements=count)).tolist()
    assert len(set(found)) == len(found) == count + 1
    own = set(ids)
    assert len(own & set(found)) == min(len(own), count + 1)
    assert all(0 <= token < VOCABULARY for token in found)
    again = replacements(TOKENS, of(*ids), InfluenceQuestion(replacements=count))
    assert again.tolist() == found


def test_a_single_vector_is_replaced_by_zeros() -> None:
    one = InputSequence({"vectors": np.ones((1, 6))}, 1)
    found = replacements(features()[0], one, InfluenceQuestion())
    np.testing.assert_array_equal(found, [np.ones(6), np.zeros(6)])


@pytest.mark.parametrize(
    ("question", "one", "message"),
    [
        (InfluenceQuestion(replacement_tokens=(VOCABULARY,)), of(1, 2), "got 30, expected from 0"),
        (InfluenceQuestion(replacement_tokens=(-1,)), of(1, 2), "got -1, expected from 0 to 29"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(
    question: InfluenceQuestion, one: InputSequence, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ask(recurrent(), question, one)


def test_tokens_for_features_are_refused() -> None:
    one = InputSequence({"vectors": np.ones((2, 6))}, 2)
    with pytest.raises(InvalidRequest, match="token ids"):
        ask(recurrent(inputs=features()), InfluenceQuestion(replacement_tokens=(1,)), one)


def test_a_sequence_of_one_token_without_a_known_vocabulary_needs_replacements() -> None:
    unknown = replace(TOKENS, vocabulary_size=None)
    with pytest.raises(InvalidRequest, match="vocabulary is not known"):
        replacements(unknown, of(4, 4), InfluenceQuestion())
