import asyncio

import numpy as np
import pytest

from seqlens.errors import ModelNotReady, Overloaded
from seqlens.sequences import InputSequence


async def test_a_full_room_refuses_all_or_nothing(
    running, served, sums, sequence, events, gate, until
):
    engine = sums(before=lambda _: gate.wait(10))
    async with running() as arbiter:
        queue = arbiter.add(served(engine, max_waiting_tokens=10, max_waiting_sequences=4))
        first = queue.submit(sequence(1))
        await until(lambda: engine.batches)
        waiting = queue.submit_all([sequence(1, 2, 3), sequence(4, 5, 6)])
        with pytest.raises(Overloaded) as refused:
            queue.submit_all([sequence(1), sequence(*range(9))])
        assert refused.value.retry_after_seconds > 0
        assert queue.state().waiting_sequences == 2
        waiting.append(queue.submit(sequence(7)))  # less fits still
        gate.set()
        await asyncio.gather(first, *waiting)
    assert [event["reason"] for event in events.of("rejected")] == ["queue_full"] * 2


async def test_room_can_be_waited_for(running, served, sums, sequence, events, gate, until):
    engine = sums(before=lambda _: gate.wait(10))
    async with running() as arbiter:
        queue = arbiter.add(served(engine, max_waiting_tokens=4))
        first = queue.submit(sequence(1))
        await until(lambda: engine.batches)
        second = queue.submit(sequence(1, 2, 3))
        await queue.room_for_stream([sequence(4)])
        waiting = asyncio.create_task(queue.room_for_stream([sequence(4, 5)]))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        gate.set()
        await asyncio.wait_for(waiting, 5)
        await asyncio.gather(first, second, queue.submit(sequence(4, 5)))
    assert events.of("rejected") == []


async def test_nobody_waits_for_room_in_a_model_that_is_unloaded(
    running, served, sums, sequence, gate, until
):
    engine = sums(before=lambda _: gate.wait(10))
    async with running() as arbiter:
        queue = arbiter.add(served(engine, max_waiting_tokens=1))
        sent = [queue.submit(sequence(1))]
        await until(lambda: engine.batches)
        sent.append(queue.submit(sequence(2)))
        waiting = asyncio.create_task(queue.room_for_stream([sequence(3)]))
        await asyncio.sleep(0)
        removing = asyncio.create_task(arbiter.remove(queue))
        await asyncio.wait_for(waiting, 5)
        with pytest.raises(ModelNotReady):
            queue.submit(sequence(3))
        gate.set()
        await removing
        await asyncio.gather(*sent, return_exceptions=True)


async def test_state_counts_what_waits_and_what_runs(running, served, sums, sequence, gate, until):
    engine = sums(before=lambda _: gate.wait(10))
    async with running() as arbiter:
        queue = arbiter.add(served(engine))
        first = queue.submit(sequence(1))
        await until(lambda: engine.batches)
        second = queue.submit(sequence(1, 2, 3))
        state = queue.state()
        assert (state.waiting_sequences, state.waiting_tokens) == (1, 3)
        assert state.inflight_requests == 2
        assert state.oldest_seconds >= 0
        gate.set()
        await asyncio.gather(first, second)
        assert queue.state().inflight_requests == 0


async def test_sequences_that_cannot_be_stacked_never_share_a_batch(running, served, sums, gate):
    engine = sums(before=lambda _: gate.wait(10))
    async with running() as arbiter:
        queue = arbiter.add(served(engine))
        sent = queue.submit_all(
            [
                InputSequence({"tokens": np.array([1, 2], dtype)}, 2)
                for dtype in (np.int64, np.int32, np.int64, np.int32)
            ]
        )
        gate.set()
        answers = await asyncio.gather(*sent)
    assert [answer.outputs["sums"].dtype for answer in answers]
    assert sorted(str(batch.dtype) for batch in engine.batches) == ["int32", "int64"]
    assert {answer.batch_size for answer in answers} == {2}


async def test_nothing_to_submit_gives_nothing(running, served, sums):
    async with running() as arbiter:
        queue = arbiter.add(served(sums()))
        assert queue.submit_all([]) == []
        assert await arbiter.drain(1)
