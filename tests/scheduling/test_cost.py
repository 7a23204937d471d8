import math

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seqlens.scheduling.cost import CostModel, CostTracker, Measurement

lengths = st.integers(0, 8_192)
batches = st.integers(1, 256)
grids = st.lists(
    st.builds(
        Measurement,
        length=st.integers(0, 2_048),
        batch=st.integers(1, 64),
        seconds=st.floats(1e-6, 10),
    ),
    min_size=1,
    max_size=12,
).map(lambda cells: CostModel(tuple(cells)))

# A Transformer of 4 layers x 256 on one core: batches pay at length 8 and hardly at 64.
TRANSFORMER = CostModel(
    tuple(
        Measurement(length, batch, batch * milliseconds / 1e3)
        for length, row in {
            8: {1: 0.85, 2: 0.69, 4: 0.67, 8: 0.64},
            16: {1: 1.41, 2: 1.35, 4: 1.28, 8: 1.30},
            64: {1: 5.36, 2: 5.28, 4: 5.18, 8: 5.14},
            512: {1: 54.6},
        }.items()
        for batch, milliseconds in row.items()
    )
)


@given(grids, lengths, lengths, batches, batches)
def test_more_work_is_never_predicted_to_be_faster(model, length, longer, batch, larger):
    assume(length <= longer and batch <= larger)
    tolerance = 1 + 1e-9
    assert 0 < model.seconds(length, batch) <= model.seconds(longer, batch) * tolerance
    assert model.seconds(length, batch) <= model.seconds(length, larger) * tolerance
    assert math.isfinite(model.seconds(longer, larger))


@given(grids, lengths, batches)
def test_the_prediction_is_remembered_and_survives_storage(model, length, batch):
    first = model.seconds(length, batch)
    stored = msgspec.json.decode(msgspec.json.encode(model), type=CostModel)
    assert model.seconds(length, batch) == first == stored.seconds(length, batch)
    assert stored == model


@pytest.mark.parametrize("cell", TRANSFORMER.measurements)
def test_measured_cells_are_met(cell):
    assert TRANSFORMER.seconds(cell.length, cell.batch) == pytest.approx(cell.seconds)


def test_a_power_law_is_followed_between_and_beyond_cells():
    cells = [Measurement(n, b, 1e-4 * n**1.5 * b**0.5) for n in (8, 64, 512) for b in (1, 4, 16)]
    model = CostModel(tuple(cells))
    for length, batch in [(20, 2), (100, 9), (512, 16), (2_048, 3), (2, 1)]:
        assert model.seconds(length, batch) == pytest.approx(1e-4 * length**1.5 * batch**0.5)
    # Nothing is known of larger batches: no further gain is promised.
    assert model.seconds(64, 32) == pytest.approx(2 * model.seconds(64, 16))


def test_a_cell_measured_only_alone_promises_no_gain_from_a_batch_of_it():
    assert TRANSFORMER.seconds(512, 2) >= 2 * TRANSFORMER.seconds(512, 1) * 0.95


@pytest.mark.parametrize(
    "cells",
    [(), (Measurement(8, 1, 0.0),), (Measurement(8, 1, math.nan),), (Measurement(8, 0, 1),)],
)
def test_a_grid_that_measured_nothing_is_refused(cells):
    with pytest.raises(ValueError, match="measurement"):
        CostModel(cells)


def test_serving_corrects_the_prediction_slowly_and_bounded():
    tracker = CostTracker(TRANSFORMER)
    alone = TRANSFORMER.seconds(64, 1)
    tracker.observe(64, 1, 1_000 * alone)
    assert 1 < tracker.factor < 1.1
    for _ in range(200):
        tracker.observe(64, 1, 2 * alone)
    assert tracker.factor == pytest.approx(2, rel=0.01)
    assert tracker.seconds(8, 8) == pytest.approx(2 * TRANSFORMER.seconds(8, 8), rel=0.01)
