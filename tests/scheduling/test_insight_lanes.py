"""Threads of their own for looking inside: bounded, in order, never lost and never hanging."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.errors import BackendFailed, DeadlinePassed, Draining, ModelNotReady, Overloaded
from seqlens.scheduling.insight_lanes import InsightLanes
from seqlens.scheduling.pieces import Cancelled

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def lanes() -> AsyncIterator[InsightLanes]:
    lanes = InsightLanes(1, 2)
    lanes.start()
    yield lanes
    assert lanes.close()


class Held:
    """Work that waits until it is let go, and remembers what it was told."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        self.begun = threading.Event()
        self.cancelled: bool | None = None

    def __call__(self, cancelled: Cancelled) -> str:
        self.begun.set()
        self.gate.wait()
        self.cancelled = cancelled()
        return "done"


async def run_alone(lanes: InsightLanes, work: Callable[[Cancelled], object]) -> object:
    with lanes.place() as place:
        return await place.run(work)


async def test_work_runs_in_a_thread_of_its_own_and_gives_its_result(lanes: InsightLanes) -> None:
    name = await run_alone(lanes, lambda _: threading.current_thread().name)
    assert name == "seqlens-insight-0"


async def test_a_failure_is_its_callers_alone(lanes: InsightLanes) -> None:
    def fail(_: Cancelled) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run_alone(lanes, fail)
    assert await run_alone(lanes, lambda _: 5) == 5


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), StopIteration()])
async def test_what_would_end_the_server_or_break_the_loop_ends_only_the_request(
    lanes: InsightLanes, error: BaseException
) -> None:
    def fail(_: Cancelled) -> None:
        raise error

    with pytest.raises(BackendFailed, match=type(error).__name__):
        await run_alone(lanes, fail)
    assert await run_alone(lanes, lambda _: 5) == 5


async def test_more_than_may_wait_are_refused_with_a_time(
    lanes: InsightLanes, gate: threading.Event
) -> None:
    with ExitStack() as places:
        for _ in range(3):
            places.enter_context(lanes.place())
        with pytest.raises(Overloaded) as refused, lanes.place():
            pass
    assert refused.value.retry_after_seconds >= 0.1
    assert await run_alone(lanes, lambda _: 1) == 1  # what was taken is free again


async def test_first_come_is_served_to_its_end_first(
    lanes: InsightLanes, gate: threading.Event
) -> None:
    order: list[str] = []

    async def request(name: str, pieces: int) -> None:
        with lanes.place() as place:
            for number in range(pieces):
                held = number == 0 and name == "first"

                def work(_: Cancelled, held: bool = held) -> None:
                    if held:
                        gate.wait()
                    order.append(name)

                await place.run(work)

    requests = [asyncio.create_task(request(*one)) for one in (("first", 3), ("second", 2))]
    await asyncio.sleep(0.01)
    assert lanes.waiting == 1
    gate.set()
    await asyncio.gather(*requests)
    # Between two pieces the loop has a turn, in which the thread may begin the next request.
    assert order.index("first") < order.index("second")
    assert sorted(order) == ["first"] * 3 + ["second"] * 2


async def test_a_caller_that_leaves_while_waiting_takes_its_work_back(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    first, second = Held(gate), Held(gate)
    running = asyncio.create_task(run_alone(lanes, first))
    await until(first.begun.is_set)
    waiting = asyncio.create_task(run_alone(lanes, second))
    await until(lambda: lanes.waiting == 1)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert lanes.waiting == 0
    gate.set()
    assert await running == "done"
    assert await run_alone(lanes, lambda _: second.begun.is_set()) is False


async def test_running_work_is_told_that_its_caller_has_left(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    work = Held(gate)
    task = asyncio.create_task(run_alone(lanes, work))
    await until(work.begun.is_set)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    gate.set()
    await until(lambda: work.cancelled is True)


async def test_a_place_is_free_only_when_its_thread_is_done(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    """What it used must not be closed under a thread that still uses it."""
    work, freed = Held(gate), []

    async def request() -> None:
        with lanes.place() as place:
            place.afterwards(lambda: freed.append(True))
            await place.run(work)

    task = asyncio.create_task(request())
    await until(work.begun.is_set)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert freed == []
    gate.set()
    await until(lambda: freed == [True])


async def test_a_deadline_that_passes_while_waiting_ends_the_wait(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    first = Held(gate)
    running = asyncio.create_task(run_alone(lanes, first))
    await until(first.begun.is_set)
    with lanes.place() as place, pytest.raises(DeadlinePassed):
        await place.run(lambda _: 1, deadline=time.monotonic() + 0.02)
    with lanes.place() as place, pytest.raises(DeadlinePassed):
        await place.run(lambda _: 1, deadline=time.monotonic() - 1)
    gate.set()
    assert await running == "done"


async def test_work_that_has_begun_outlives_its_deadline(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    work = Held(gate)
    with lanes.place() as place:
        running = asyncio.create_task(place.run(work, deadline=time.monotonic() + 0.05))
        await until(work.begun.is_set)
        await asyncio.sleep(0.06)
        gate.set()
        assert await running == "done"


async def test_a_request_that_is_failed_ends_at_once_and_goes_on_no_more(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    work = Held(gate)
    with lanes.place() as place:
        running = asyncio.create_task(place.run(work))
        await until(work.begun.is_set)
        place.fail(ModelNotReady("going"))
        with pytest.raises(ModelNotReady):
            await running
        with pytest.raises(ModelNotReady):
            await place.run(lambda _: 1)
        gate.set()
        await until(lambda: work.cancelled is True)


async def test_what_a_failed_request_used_is_free_though_its_caller_stays(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    freed: list[bool] = []
    with lanes.place() as place:
        place.afterwards(lambda: freed.append(True))
        await place.run(lambda _: 1)
        assert freed == []
        place.fail(ModelNotReady("going"))
        assert freed == [True]
    assert freed == [True]


async def test_draining_lets_requests_end_and_takes_no_more(lanes: InsightLanes) -> None:
    running = asyncio.create_task(run_alone(lanes, lambda _: time.sleep(0.02)))
    await asyncio.sleep(0)
    assert await lanes.drain(5)
    await running
    with pytest.raises(Draining), lanes.place():
        pass


async def test_what_has_not_ended_in_time_fails_with_draining(
    lanes: InsightLanes, gate: threading.Event, until: Until
) -> None:
    first, second = Held(gate), Held(gate)
    tasks = [asyncio.create_task(run_alone(lanes, work)) for work in (first, second)]
    await until(lambda: first.begun.is_set() and lanes.waiting == 1)
    assert not await lanes.drain(0.01)
    for task in tasks:
        with pytest.raises(Draining):
            await task
    gate.set()
    await until(lambda: first.cancelled is True)
    assert not second.begun.is_set()


async def test_closing_says_when_a_thread_does_not_end(gate: threading.Event) -> None:
    lanes = InsightLanes(1, 1)
    lanes.start()
    work = Held(gate)
    task = asyncio.create_task(run_alone(lanes, work))
    await asyncio.to_thread(work.begun.wait)
    assert not lanes.close(0.01)
    with pytest.raises(Draining):
        await task
    gate.set()
    assert lanes.close()


async def test_a_thread_rests_while_plain_requests_come() -> None:
    lanes = InsightLanes(1, 1, share=0.25, busy=lambda: True)
    lanes.start()
    await run_alone(lanes, lambda _: time.sleep(0.02))
    ended = time.monotonic()
    assert await run_alone(lanes, lambda _: time.monotonic()) >= ended + 0.05
    assert lanes.close()


async def test_long_work_rests_where_it_asks_whether_it_is_still_wanted() -> None:
    lanes = InsightLanes(1, 1, share=0.25, busy=lambda: True)
    lanes.start()

    def work(cancelled: Cancelled) -> float:
        time.sleep(0.02)
        asked = time.monotonic()
        assert not cancelled()
        return time.monotonic() - asked

    assert await run_alone(lanes, work) >= 0.05
    assert lanes.close()


async def test_nobody_waits_for_rest_while_no_plain_requests_come() -> None:
    lanes = InsightLanes(1, 1, share=0.01, busy=lambda: False)
    lanes.start()
    await run_alone(lanes, lambda _: time.sleep(0.02))
    async with asyncio.timeout(0.5):  # a whole rest would take a second
        await run_alone(lanes, lambda _: None)
    assert lanes.close()


async def test_who_leaves_ends_the_rest_before_the_work(until: Until) -> None:
    lanes = InsightLanes(1, 1, share=0.01, busy=lambda: True)
    lanes.start()
    await run_alone(lanes, lambda _: time.sleep(0.02))
    task = asyncio.create_task(run_alone(lanes, lambda _: time.sleep(60)))
    await asyncio.sleep(0.02)
    task.cancel()
    async with asyncio.timeout(0.5):
        with suppress(asyncio.CancelledError):
            await task
        assert await lanes.drain(5)
    assert lanes.close()


@given(
    plan=st.lists(
        st.tuples(st.sampled_from(["answer", "fail", "leave", "late"]), st.integers(1, 3)),
        max_size=12,
    ),
    threads=st.integers(1, 2),
)
def test_every_request_ends_as_it_should_whatever_the_others_do(
    plan: list[tuple[str, int]], threads: int
) -> None:
    async def request(lanes: InsightLanes, kind: str, pieces: int) -> int:
        def work(cancelled: Cancelled) -> int:
            if kind == "fail":
                raise ValueError
            return 1

        deadline = time.monotonic() - 1 if kind == "late" else None
        with lanes.place() as place:
            return sum([await place.run(work, deadline=deadline) for _ in range(pieces)])

    async def check() -> None:
        lanes = InsightLanes(threads, 12)
        lanes.start()
        tasks = [asyncio.create_task(request(lanes, *one)) for one in plan]
        await asyncio.sleep(0)
        for task, (kind, _) in zip(tasks, plan, strict=True):
            if kind == "leave":
                task.cancel()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert await lanes.drain(5)  # no place is left behind
        for result, (kind, pieces) in zip(results, plan, strict=True):
            wanted = {"fail": ValueError, "leave": asyncio.CancelledError, "late": DeadlinePassed}
            assert result == pieces if kind == "answer" else isinstance(result, wanted[kind])
        assert lanes.close()

    asyncio.run(check())
