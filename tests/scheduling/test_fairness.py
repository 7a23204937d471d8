from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from seqlens.scheduling.fairness import FairShare


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.001, 0.2), min_size=2),
    st.integers(50, 300),
)
def test_models_that_always_want_more_get_equal_time(unit_seconds, turns):
    shares, used = FairShare(), Counter()
    for _ in range(turns):
        model = shares.in_turn(unit_seconds)[0]
        shares.charge(model, unit_seconds[model])
        used[model] += unit_seconds[model]
    times = [used[model] for model in unit_seconds]
    assert max(times) - min(times) <= max(unit_seconds.values()) + 1e-9


def test_a_model_that_was_idle_saves_up_nothing():
    shares = FairShare()
    for _ in range(100):
        shares.charge("busy", 1.0)
    turns = []
    for _ in range(6):
        model = shares.in_turn(["busy", "idle"])[0]
        turns.append(model)
        shares.charge(model, 1.0)
    assert turns.count("idle") in (3, 4)


def test_a_wrong_prediction_is_made_good():
    shares = FairShare()
    shares.charge("slow", 1.0)
    shares.charge("fast", 1.0)
    shares.correct("slow", 5.0)
    for _ in range(5):
        assert shares.in_turn(["slow", "fast"])[0] == "fast"
        shares.charge("fast", 1.0)


def test_a_model_that_is_gone_is_forgotten():
    shares = FairShare()
    shares.charge("old", 100.0)
    shares.charge("other", 10.0)
    shares.forget("old")
    shares.correct("old", 50.0)  # its last run ended after it was removed
    assert shares.in_turn(["other", "old"])[0] == "old"
