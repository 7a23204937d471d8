import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from seqlens.scheduling.cost import CostModel, Measurement
from seqlens.scheduling.plan import (
    BatchBudget,
    Waiting,
    choose_seed,
    fair_share,
    order_key,
    plan_batch,
)
from seqlens.scheduling.strategy import Strategy

BUDGET = BatchBudget(tokens=4_096, sequences=32)


def grid(seconds, lengths=(8, 32, 128, 512), batches=(1, 2, 4, 8, 16, 32)):
    return CostModel(tuple(Measurement(n, b, seconds(n, b)) for n in lengths for b in batches))


RECURRENT = grid(lambda length, batch: length * (1e-4 + 2e-5 * batch))  # batches pay at any length
LINEAR = grid(lambda length, batch: 1e-4 * length * batch)  # no gain from any batch
TINY_ONLY = grid(  # a Transformer on a CPU: an overhead per run, no gain once rows fill a core
    lambda length, batch: 3e-4 + 8e-5 * length * batch
)

waiting_lists = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 300), st.sampled_from([16, 64])), st.sampled_from(["a", "a", "b"])
    ),
    min_size=1,
    max_size=80,
).map(
    lambda drawn: [
        Waiting(number, length, float(number), sharing_key=key)
        for number, (length, key) in enumerate(drawn)
    ]
)
costs = st.sampled_from([RECURRENT, LINEAR, TINY_ONLY])
budgets = st.builds(
    BatchBudget,
    tokens=st.integers(1, 2_000),
    sequences=st.integers(1, 40),
    quantum_seconds=st.sampled_from([0.001, 0.02, math.inf]),
    longest_shared=st.sampled_from([None, 1, 64, 200]),
)


def plan(waiting, strategy=Strategy.BY_LENGTH, budget=BUDGET, cost=RECURRENT, share=1_000):
    seed, *mates = waiting
    return plan_batch(seed, mates, strategy=strategy, budget=budget, cost=cost, share=share)


def of_lengths(*lengths):
    return [Waiting(number, length, 0.0) for number, length in enumerate(lengths)]


@given(waiting_lists, st.sampled_from(Strategy), budgets, costs, st.integers(1, 50))
def test_a_batch_holds_the_seed_nobody_twice_and_keeps_to_every_bound(
    waiting, strategy, budget, cost, share
):
    batch = plan(waiting, strategy, budget, cost, share)
    members = batch.members

    assert members[0] == waiting[0]
    assert set(members) <= set(waiting)
    assert len(set(members)) == len(members) <= min(budget.sequences, share)
    assert batch.length == max(member.length for member in members)
    assert batch.real_tokens + batch.padding_tokens == batch.length * len(members)
    assert len({member.sharing_key for member in members}) == 1
    if len(members) > 1:  # a seed larger than the budget still has to run
        shortest = min(cost.seconds(member.length, 1) for member in members)
        assert batch.length * len(members) <= budget.tokens
        assert batch.length <= (budget.longest_shared or math.inf)
        assert batch.seconds <= max(budget.quantum_seconds, budget.stretch * shortest)


@given(waiting_lists, costs)
def test_a_batch_is_never_slower_than_its_sequences_apart(waiting, cost):
    batch = plan(waiting, cost=cost)
    assert batch.seconds <= sum(cost.seconds(member.length, 1) for member in batch.members)


@given(waiting_lists, st.sampled_from(Strategy), budgets, costs, st.integers(1, 50))
def test_same_arguments_same_answer(waiting, strategy, budget, cost, share):
    first = plan(waiting, strategy, budget, cost, share)
    assert first == plan(waiting, strategy, budget, cost, share)


@given(waiting_lists, budgets)
def test_where_padding_leaks_only_equal_lengths_share_a_batch(waiting, budget):
    batch = plan(waiting, Strategy.EQUAL_LENGTH, budget)
    assert batch.padding_tokens == 0
    assert {member.length for member in batch.members} == {waiting[0].length}


@given(waiting_lists, st.sampled_from([Strategy.ALONE, Strategy.WHOLE]))
def test_where_mates_leak_nobody_shares(waiting, strategy):
    assert plan(waiting, strategy).members == (waiting[0],)


def test_near_lengths_share_a_recurrent_batch_and_far_ones_do_not():
    batch = plan(of_lengths(60, 62, 64, 70, 500))
    assert [member.length for member in batch.members] == [60, 62, 64, 70]


def test_a_transformer_on_a_cpu_batches_tiny_sequences_only():
    assert len(plan(of_lengths(*[8] * 40), cost=TINY_ONLY).members) > 4
    assert len(plan(of_lengths(*[128] * 40), cost=TINY_ONLY).members) == 1


def test_the_trigger_says_what_closed_the_batch():
    free = dataclasses.replace(BUDGET, quantum_seconds=math.inf)
    assert plan(of_lengths(*[16] * 40), budget=free).trigger == "full"
    tight = dataclasses.replace(free, tokens=100)
    assert plan(of_lengths(*[16] * 40), budget=tight).trigger == "budget"
    assert plan(of_lengths(16, 16), budget=free).trigger == "idle"
    assert plan(of_lengths(16), budget=free).trigger == "idle"


def test_a_frozen_length_counts_at_full_length():
    frozen = dataclasses.replace(BUDGET, tokens=256, fixed_length=128)
    batch = plan(of_lengths(3, 100, 5), budget=frozen)
    assert batch.length == 128
    assert len(batch.members) == 2


def test_idle_lanes_get_their_share():
    assert [fair_share(8, idle) for idle in (0, 1, 2, 7, 20)] == [8, 4, 3, 1, 1]
    assert len(plan(of_lengths(*[16] * 8), share=fair_share(8, 1)).members) == 4


arrivals = st.builds(
    Waiting,
    number=st.integers(0, 100),
    length=st.integers(1, 4_096),
    enqueued_at=st.floats(0, 1e6),
    priority=st.integers(-1, 3),
)


@given(arrivals, arrivals, st.floats(0, 1e4))
def test_stated_priority_goes_first_then_the_shortest_with_ageing(one, other, ageing):
    if one.priority > 0 and (other.priority > one.priority or other.priority <= 0):
        assert order_key(one, ageing) < order_key(other, ageing)
    if one.priority == other.priority:
        effective = (one.length - other.length) + ageing * (one.enqueued_at - other.enqueued_at)
        if effective < -1e-3:
            assert order_key(one, ageing) < order_key(other, ageing)


@given(arrivals, arrivals, st.floats(0, 10), st.floats(0, 1e6))
def test_the_oldest_is_the_seed_once_it_is_overdue(first, oldest, max_age, now):
    seed = choose_seed(first, oldest, now, max_age)
    overdue = now - oldest.enqueued_at >= max_age
    assert seed is (oldest if overdue else first)
