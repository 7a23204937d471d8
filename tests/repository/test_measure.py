import pytest
from tests.support.numpy_models import NumpyEngine, anatomy, engine

from seqlens.graphs.anatomy import InputAnatomy, InputRole
from seqlens.repository.measure import LengthLimit, length_limit, measure
from seqlens.repository.verify import VerificationFailed
from seqlens.scheduling.cost import CostModel


def cells(tried: NumpyEngine, *, longest: int = 600, most_rows: int = 16, **more) -> set:
    found = measure(tried, tried.anatomy, longest=longest, most_rows=most_rows, **more)
    assert all(one.seconds > 0 for one in found)
    return {(one.length, one.batch) for one in found}


def test_the_grid_covers_lengths_and_batches_within_the_limits() -> None:
    lengths, batches = (8, 32, 128, 512), (1, 4, 16)
    assert cells(engine("safe"), seconds=60) == {(n, b) for n in lengths for b in batches}
    assert cells(engine("safe"), longest=40, most_rows=5) == {(8, 1), (8, 4), (32, 1), (32, 4)}


def test_short_limits_and_windows_still_give_a_cell() -> None:
    assert cells(engine("safe"), longest=3, most_rows=1) == {(3, 1)}
    assert cells(engine("refuses_short"), longest=50, most_rows=1, shortest=45) == {(45, 1)}


def test_a_frozen_length_is_the_only_one_measured() -> None:
    assert cells(engine("safe", fixed_length=24), most_rows=4) == {(24, 1), (24, 4)}


def test_cells_that_the_model_refuses_are_left_out() -> None:
    assert cells(engine("refuses_batches"), longest=8) == {(8, 1)}


def test_without_any_time_one_cell_is_measured() -> None:
    assert cells(engine("safe"), seconds=0.0) == {(8, 1)}


def test_a_model_that_never_runs_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="does not run: never runs"):
        cells(engine("refuses_all"))


def test_cells_that_would_take_long_are_left_to_the_cost_model() -> None:
    class Slow(NumpyEngine):
        longest = 0

        def run(self, inputs):
            import time

            size = inputs["tokens"].size
            self.longest = max(self.longest, size)
            time.sleep(size * 0.0005)
            return super().run(inputs)

    tried = Slow("safe", anatomy())
    found = measure(tried, tried.anatomy, longest=4_096, most_rows=16, seconds=60)
    assert tried.longest <= 512  # 0.25 s
    assert CostModel(found).seconds(1_024, 1) == pytest.approx(0.5, rel=0.5)


def test_a_model_without_time_is_measured_too() -> None:
    class Pointwise(NumpyEngine):
        def run(self, inputs):
            return {"y": inputs["x"][:, :3]}

    inputs = (InputAnatomy("x", "FP32", (-1, 4), InputRole.SEQUENCE, 0),)
    assert cells(Pointwise("safe", anatomy(inputs=inputs)), most_rows=1) == {(1, 1)}


@pytest.mark.parametrize(
    ("found", "stated", "limit"),
    [
        ({}, None, LengthLimit(100, "the setting max_sequence_length")),
        ({"max_length": 512}, None, LengthLimit(100, "the setting max_sequence_length")),
        ({"max_length": 64}, None, LengthLimit(64, "the model's position table of 64")),
        ({"max_length": 32}, 32, LengthLimit(32, "max_length in model.yaml")),
        ({"fixed_length": 16}, 32, LengthLimit(16, "the length frozen in the model")),
        ({}, 900, LengthLimit(100, "the setting max_sequence_length")),
    ],
)
def test_the_lowest_limit_holds_and_is_named(found, stated, limit) -> None:
    assert length_limit(anatomy(**found), stated=stated, longest=100) == limit
