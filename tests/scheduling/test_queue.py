import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seqlens.errors import Overloaded
from seqlens.scheduling.cost import CostModel, Measurement
from seqlens.scheduling.plan import Waiting
from seqlens.scheduling.queue import WaitingRoom
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import SchedulerSettings

COST = CostModel(
    tuple(
        Measurement(length, batch, length * (1e-4 + 2e-5 * batch))
        for length in (8, 64, 512)
        for batch in (1, 8, 32)
    )
)
SETTINGS = SchedulerSettings(max_batch_sequences=8, max_batch_tokens=512, max_age_seconds=2.0)


def room(strategy=Strategy.BY_LENGTH, **settings):
    return WaitingRoom(dataclasses.replace(SETTINGS, **settings), strategy, COST, lanes=2)


class AnyQueue(RuleBasedStateMachine):
    """Random arrivals, departures and batches against a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.room = room()
        self.model = {}
        self.now = 0.0
        self.number = 0

    @rule(
        length=st.integers(1, 300),
        allowed=st.one_of(st.none(), st.floats(0.1, 5)),
        priority=st.integers(0, 2),
    )
    def arrive(self, length, allowed, priority):
        deadline = None if allowed is None else self.now + allowed
        waiting = Waiting(self.number, length, self.now, deadline, priority)
        self.room.add(waiting, f"item {self.number}")
        self.model[self.number] = waiting
        self.number += 1

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.now += seconds

    @rule(data=st.data())
    def leave(self, data):
        number = data.draw(st.integers(0, self.number))
        expected = f"item {number}" if number in self.model else None
        assert self.room.remove(number) == expected
        self.model.pop(number, None)

    @rule()
    def expire(self):
        late = {
            n for n, w in self.model.items() if w.deadline is not None and w.deadline <= self.now
        }
        assert set(self.room.take_expired(self.now)) == {f"item {n}" for n in late}
        for number in late:
            del self.model[number]

    @rule(idle=st.integers(0, 3))
    def run(self, idle):
        taken = self.room.take_batch(self.now, idle)
        assert (taken is None) == (not self.model)
        if taken is None:
            return
        batch, items = taken
        assert items == [f"item {member.number}" for member in batch.members]
        oldest = self.model[min(self.model)]
        if self.now - oldest.enqueued_at >= SETTINGS.max_age_seconds:
            assert batch.members[0] == oldest
        for member in batch.members:
            assert self.model.pop(member.number) == member  # nobody twice, nobody invented

    @precondition(lambda self: len(self.model) > 3)
    @rule()
    def empty(self):
        assert self.room.take_all() == [f"item {number}" for number in sorted(self.model)]
        self.model.clear()

    @invariant()
    def sums_agree(self):
        assert len(self.room) == len(self.model)
        assert self.room.tokens == sum(waiting.length for waiting in self.model.values())
        deadlines = [w.deadline for w in self.model.values() if w.deadline is not None]
        assert self.room.next_deadline == min(deadlines, default=None)
        alone = sum(COST.seconds(waiting.length, 1) for waiting in self.model.values())
        assert self.room.seconds == pytest.approx(alone, abs=1e-9)


TestAnyQueue = AnyQueue.TestCase
TestAnyQueue.settings = settings(deadline=None, max_examples=40, stateful_step_count=40)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(100, 512),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.integers(0, 2),
)
def test_nobody_starves_under_a_flood_of_shorter_and_more_urgent_ones(long, flood, priority):
    """One lane in virtual time, shorter sequences arriving before each batch for ever."""
    max_age = 0.2
    waiting_room = room(ageing_tokens_per_second=0.0, max_age_seconds=max_age)
    waiting_room.add(Waiting(0, long, 0.0), "victim")
    now, number, longest_run = 0.0, 0, 0.0
    while True:
        for length in flood:
            number += 1
            waiting_room.add(Waiting(number, length, now, priority=priority), "flood")
        batch, items = waiting_room.take_batch(now)
        if "victim" in items:
            break
        longest_run = max(longest_run, batch.seconds)
        now += batch.seconds
        assert now <= max_age + longest_run
    assert now <= max_age + longest_run


def test_overdue_sequences_go_in_order_of_arrival_whatever_their_priority():
    waiting_room = room(Strategy.ALONE)
    for number, (length, priority) in enumerate([(300, 0), (5, 1), (200, 0), (9, 0)]):
        waiting_room.add(Waiting(number, length, number / 10, priority=priority), str(number))
    served = [waiting_room.take_batch(2.25)[1] for _ in range(4)]
    assert served == [["0"], ["1"], ["2"], ["3"]]


def test_before_that_the_shortest_goes_first_and_priority_before_length():
    waiting_room = room(Strategy.ALONE)
    for number, (length, priority) in enumerate([(300, 0), (5, 0), (200, 2), (400, 1)]):
        waiting_room.add(Waiting(number, length, 0.0, priority=priority), str(number))
    served = [waiting_room.take_batch(1.0)[1] for _ in range(4)]
    assert served == [["3"], ["2"], ["1"], ["0"]]


def test_batches_gather_near_lengths_from_the_whole_room():
    waiting_room = room(ageing_tokens_per_second=1_000.0)
    for number in range(200):
        length = 16 if number % 20 == 0 else 17 + 5 * number
        waiting_room.add(Waiting(number, length, number / 1_000), number)
    batch, _ = waiting_room.take_batch(0.3)
    lengths = sorted(member.length for member in batch.members)
    assert len(lengths) == 8
    assert all(longer <= 1.25 * shorter for shorter, longer in pairwise(lengths))


def test_the_room_is_bounded_in_tokens_and_in_sequences():
    waiting_room = room(max_waiting_tokens=100, max_waiting_sequences=3)
    waiting_room.check_room_for([500])  # larger than the room, but it is empty
    waiting_room.add(Waiting(0, 60, 0.0), 0)
    waiting_room.check_room_for([40])
    with pytest.raises(Overloaded, match="1 sequences with 60 tokens wait"):
        waiting_room.check_room_for([41])
    with pytest.raises(Overloaded) as refused:
        waiting_room.check_room_for([1, 1, 1])
    assert refused.value.retry_after_seconds == pytest.approx(COST.seconds(60, 1) / 2)
    waiting_room.remove(0)
    waiting_room.check_room_for([500])


def test_streams_leave_half_of_the_room_to_others():
    waiting_room = room(max_waiting_tokens=100, max_waiting_sequences=8)
    assert waiting_room.has_room_for_stream([60, 30])  # no other stream waits
    waiting_room.add(Waiting(0, 30, 0.0, streamed=True), 0)
    assert waiting_room.has_room_for_stream([20])
    assert not waiting_room.has_room_for_stream([21])
    assert not waiting_room.has_room_for_stream([1] * 4)
    waiting_room.check_room_for([70])
    waiting_room.add(Waiting(1, 60, 0.0), 1)
    assert not waiting_room.has_room_for_stream([20])  # the whole room is full
    waiting_room.remove(1)
    waiting_room.take_all()
    waiting_room.add(Waiting(2, 30, 0.0), 2)
    assert waiting_room.has_room_for_stream([60])


def test_age_is_that_of_the_first_to_come():
    waiting_room = room()
    assert waiting_room.oldest_seconds(5.0) == 0.0
    waiting_room.add(Waiting(0, 60, 1.0), 0)
    waiting_room.add(Waiting(1, 6, 2.0), 1)
    assert waiting_room.oldest_seconds(5.0) == 4.0
