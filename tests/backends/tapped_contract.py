"""What every opened model has to keep: subclass ``TappedContract`` to check yours.

A subclass gives an ``opened`` fixture: engines and their opened models, of a model with attention
over token ids, which has at least two sites.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from seqlens.backends.base import Engine
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.errors import BackendFailed, NotInModel
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Opened:
    """A serving engine and its model, opened up."""

    engine: Engine
    tapped: TappedModel

    @classmethod
    def of(cls, engine: Engine) -> "Opened":
        tapped = engine.tapped()
        assert tapped is not None
        return cls(engine, tapped)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(tap.site.name for tap in self.tapped.taps)

    def inputs(self, rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, Array]:
        return trial_inputs(self.engine.anatomy, rows, length, seed=seed)


def assert_close(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=TOLERANCE, atol=TOLERANCE)


def differ(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return any(np.abs(one[name] - other[name]).max() > 100 * TOLERANCE for name in one)


class TappedContract:
    """The suite itself."""

    @pytest.fixture(autouse=True)
    def closed_afterwards(self, opened: Opened) -> Iterator[None]:
        yield
        opened.tapped.close()

    def test_it_has_the_shape_of_a_tapped_model(self, opened: Opened) -> None:
        assert isinstance(opened.tapped, TappedModel)
        assert opened.tapped.anatomy == opened.engine.anatomy

    def test_its_sites_are_those_of_the_anatomy(self, opened: Opened) -> None:
        known = opened.engine.anatomy.attention_sites
        found = [tap.site for tap in opened.tapped.taps] + [
            each.site for each in opened.tapped.untapped
        ]
        assert sorted(site.layer for site in found) == sorted(site.layer for site in known)
        assert len(set(opened.sites)) == len(opened.sites) > 1

    def test_a_look_at_nothing_gives_the_plain_answer_alone(self, opened: Opened) -> None:
        inputs = opened.inputs()
        seen = opened.tapped.run(inputs, Look())
        assert_close(seen.outputs, opened.engine.run(inputs))
        assert (seen.weights, seen.embedding, seen.hidden, seen.recurrences) == ({}, None, None, ())

    @pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 6), (3, 5)])
    def test_outputs_are_plain_whatever_is_looked_at(
        self, opened: Opened, rows: int, length: int
    ) -> None:
        inputs = opened.inputs(rows, length)
        seen = opened.tapped.run(inputs, Look(opened.sites, embedding=True, hidden=True))
        assert_close(seen.outputs, opened.engine.run(inputs))

    def test_weights_of_the_named_sites_alone_are_there(self, opened: Opened) -> None:
        last = opened.sites[-1]
        assert set(opened.tapped.run(opened.inputs(), Look((last,))).weights) == {last}

    def test_rows_of_weights_sum_to_one(self, opened: Opened) -> None:
        weights = opened.tapped.run(opened.inputs(), Look(opened.sites)).weights
        for each in weights.values():
            assert each.dtype.kind == "f"
            np.testing.assert_allclose(each.sum(-1), 1, atol=TOLERANCE)

    def test_weights_do_not_depend_on_what_else_is_looked_at(self, opened: Opened) -> None:
        inputs = opened.inputs()
        together = opened.tapped.run(inputs, Look(opened.sites, embedding=True)).weights
        for site in opened.sites:
            alone = opened.tapped.run(inputs, Look((site,))).weights
            assert_close(alone, {site: together[site]})

    def test_two_runs_agree(self, opened: Opened) -> None:
        look, inputs = Look(opened.sites, hidden=True), opened.inputs()
        one, other = opened.tapped.run(inputs, look), opened.tapped.run(inputs, look)
        assert_close(one.weights, other.weights)
        assert_close(one.outputs, other.outputs)

    def test_embedding_and_hidden_have_one_vector_a_position(self, opened: Opened) -> None:
        entry = opened.engine.anatomy.sequence_inputs[0]
        seen = opened.tapped.run(opened.inputs(3, 7), Look(embedding=True, hidden=True))
        assert seen.embedding is not None
        assert seen.hidden is not None
        assert seen.embedding.shape[entry.batch_axis or 0] == 3
        assert seen.embedding.shape[entry.time_axis or 0] == 7
        assert seen.hidden.shape[:2] == (3, 7)
        assert seen.hidden.ndim == 3

    def test_equal_tokens_have_equal_embeddings(self, opened: Opened) -> None:
        inputs, entry = opened.inputs(1, 5), opened.engine.anatomy.sequence_inputs[0]
        inputs[entry.name] = np.full_like(inputs[entry.name], 1)
        embedding = opened.tapped.run(inputs, Look(embedding=True)).embedding
        assert embedding is not None
        vectors = embedding.reshape(5, -1)
        np.testing.assert_array_equal(vectors, np.broadcast_to(vectors[:1], vectors.shape))

    def test_adding_nothing_changes_nothing(self, opened: Opened) -> None:
        inputs = opened.inputs()
        seen = self.moved(opened, inputs, 0.0)
        assert_close(seen.outputs, opened.engine.run(inputs))

    def test_adding_to_the_embedding_moves_the_answer(self, opened: Opened) -> None:
        inputs = opened.inputs()
        assert differ(self.moved(opened, inputs, 1.0).outputs, opened.engine.run(inputs))

    def test_the_vector_of_another_token_gives_the_answer_for_that_token(
        self, opened: Opened
    ) -> None:
        entry = opened.engine.anatomy.sequence_inputs[0]
        one, other = opened.inputs(1, 6), opened.inputs(1, 6)
        ids = one[entry.name].copy()
        ids.reshape(-1)[2] = (ids.reshape(-1)[2] + 1) % (entry.vocabulary_size or 2)
        other[entry.name] = ids
        look = Look(embedding=True)
        vectors = [opened.tapped.run(each, look).embedding for each in (one, other)]
        assert vectors[0] is not None
        assert vectors[1] is not None
        moved = opened.tapped.run(one, Look(delta=vectors[1] - vectors[0]))
        assert_close(moved.outputs, opened.engine.run(other))

    def test_putting_the_weights_back_changes_nothing(self, opened: Opened) -> None:
        inputs = opened.inputs()
        weights = opened.tapped.run(inputs, Look(opened.sites)).weights
        for site in self.replaceable(opened):
            seen = opened.tapped.run(inputs, Look(replaced={site: weights[site]}))
            assert_close(seen.outputs, opened.engine.run(inputs))

    def test_other_weights_move_the_answer(self, opened: Opened) -> None:
        inputs = opened.inputs()
        weights = opened.tapped.run(inputs, Look(opened.sites)).weights
        for site in self.replaceable(opened):
            first = np.zeros_like(weights[site])
            first[..., 0] = 1
            seen = opened.tapped.run(inputs, Look(replaced={site: first}))
            assert differ(seen.outputs, opened.engine.run(inputs))

    def test_what_is_not_there_is_refused(self, opened: Opened) -> None:
        for look in (Look(("absent",)), Look(replaced={"absent": np.zeros(1, np.float32)})):
            with pytest.raises(NotInModel, match="absent"):
                opened.tapped.run(opened.inputs(), look)
        with pytest.raises(NotInModel):
            opened.tapped.run(opened.inputs(), Look(recurrences=True))
        for tap in opened.tapped.taps:
            if not tap.replaceable:
                put = {tap.site.name: np.zeros(1, np.float32)}
                with pytest.raises(NotInModel, match="replaced"):
                    opened.tapped.run(opened.inputs(), Look(replaced=put))

    def test_what_the_model_refuses_fails_and_leaves_no_trace(self, opened: Opened) -> None:
        inputs, entry = opened.inputs(), opened.engine.anatomy.sequence_inputs[0]
        flat = {**inputs, entry.name: inputs[entry.name].reshape(-1)[:0]}
        with pytest.raises(BackendFailed):
            opened.tapped.run(flat, Look(opened.sites))
        with pytest.raises(BackendFailed):
            opened.tapped.run(inputs, Look(delta=np.zeros((1, 2, 3, 4), np.float32)))
        assert_close(opened.tapped.run(inputs, Look()).outputs, opened.engine.run(inputs))

    def test_inputs_are_left_as_they_were(self, opened: Opened) -> None:
        inputs = opened.inputs()
        before = {name: array.copy() for name, array in inputs.items()}
        self.moved(opened, inputs, 1.0)
        for name, array in before.items():
            np.testing.assert_array_equal(inputs[name], array)

    def test_threads_that_look_inside_and_plain_ones_do_not_disturb_each_other(
        self, opened: Opened
    ) -> None:
        calls = [opened.inputs(1 + i % 2, 2 + i % 5, seed=i) for i in range(24)]
        looks = [Look(opened.sites), Look(opened.sites[:1], embedding=True), Look(hidden=True)]
        plain = [opened.engine.run(inputs) for inputs in calls]
        alone = [opened.tapped.run(x, looks[i % 3]) for i, x in enumerate(calls)]
        with ThreadPoolExecutor(8) as threads:
            answers = threads.map(opened.engine.run, calls)
            seen = threads.map(
                lambda i: opened.tapped.run(calls[i], looks[i % 3]), range(len(calls))
            )
            for expected, found in zip(plain, answers, strict=True):
                assert_close(found, expected)
            for expected_one, found_one in zip(alone, seen, strict=True):
                assert_close(found_one.outputs, expected_one.outputs)
                assert_close(found_one.weights, expected_one.weights)

    def test_it_outlives_the_engine(self, opened: Opened) -> None:
        inputs = opened.inputs()
        expected = opened.engine.run(inputs)
        opened.engine.close()
        assert_close(opened.tapped.run(inputs, Look(opened.sites)).outputs, expected)

    def test_closing_twice_is_no_error(self, opened: Opened) -> None:
        opened.tapped.close()
        opened.tapped.close()
        with pytest.raises(BackendFailed):
            opened.tapped.run(opened.inputs(), Look())

    def test_runs_that_are_under_way_when_it_closes_end_well(self, opened: Opened) -> None:
        inputs, look = opened.inputs(3, 9), Look(opened.sites)
        expected = opened.tapped.run(inputs, look)

        def until_closed() -> int:
            for count in range(10_000):
                try:
                    seen = opened.tapped.run(inputs, look)
                except BackendFailed:
                    return count
                assert_close(seen.weights, expected.weights)
            return 0

        with ThreadPoolExecutor(3) as threads:
            counts = [threads.submit(until_closed) for _ in range(3)]
            time.sleep(0.1)
            opened.tapped.close()
            assert all(each.result() for each in counts)

    def moved(self, opened: Opened, inputs: dict[str, Array], size: float) -> Seen:
        """A run with random numbers of this size added to the embedding."""
        embedding = opened.tapped.run(inputs, Look(embedding=True)).embedding
        assert embedding is not None
        random = np.random.default_rng(0).standard_normal(embedding.shape)
        return opened.tapped.run(inputs, Look(delta=(size * random).astype(embedding.dtype)))

    def replaceable(self, opened: Opened) -> list[str]:
        return [tap.site.name for tap in opened.tapped.taps if tap.replaceable]
