import time

from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.requests import Urgency
from seqlens.settings import SchedulerSettings

SECONDS = st.floats(0.001, 1e6)


@given(SECONDS, st.integers(1, 9), SECONDS, st.integers(1, 9))
def test_what_a_caller_asks_for_is_left_as_it_is(
    deadline: float, priority: int, seconds: float, default: int
) -> None:
    settings = SchedulerSettings(default_timeout_seconds=seconds, default_priority=default)
    asked = Urgency(deadline, priority)
    assert asked.in_force(settings) == asked


@given(SECONDS, st.integers(1, 9))
def test_who_asks_for_nothing_gets_what_the_settings_say(seconds: float, priority: int) -> None:
    settings = SchedulerSettings(default_timeout_seconds=seconds, default_priority=priority)
    before = time.monotonic()
    given = Urgency().in_force(settings)
    assert given.priority == priority
    assert given.deadline is not None
    assert before + seconds <= given.deadline <= time.monotonic() + seconds


def test_without_such_settings_there_is_no_deadline() -> None:
    assert Urgency().in_force(SchedulerSettings()) == Urgency()
