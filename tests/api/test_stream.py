"""The window and the order of one stream, on real futures."""

import asyncio

import numpy as np
import pytest

from seqlens.api.outcomes import Started
from seqlens.api.stream import Pending, SequenceStream
from seqlens.errors import SeqLensError
from seqlens.sequences import SequenceAnswer


def answer(kibibytes: int = 1) -> SequenceAnswer:
    outputs = {"y": np.zeros(kibibytes << 8, np.float32)}
    return SequenceAnswer(outputs, 1, 1, 1, 0.0, 0.0)


def stream_of(window: int, keep_order: bool, most_bytes: int = 1 << 30) -> SequenceStream:
    return SequenceStream(window, most_bytes, keep_order)


def pending(name: str, started: Started | None = None, size: int = 0) -> Pending:
    if started is None:
        started = asyncio.get_running_loop().create_future()
    return Pending(name, None, started, 0.0, size)


def finish(one: Pending, result: SequenceAnswer) -> None:
    assert isinstance(one.started, asyncio.Future)
    one.started.set_result(result)


async def collect(stream: SequenceStream) -> list[list[str]]:
    return [[member.id for member, _ in group.members] async for group in stream.groups()]


@pytest.mark.parametrize(("keep_order", "expected"), [(False, ["b", "a"]), (True, ["a", "b"])])
async def test_answers_come_as_ready_or_in_order(keep_order: bool, expected: list[str]) -> None:
    stream = stream_of(10, keep_order)
    first, second = pending("a"), pending("b")
    stream.add(first)
    stream.add(second)
    reading = asyncio.create_task(collect(stream))
    finish(second, answer())
    await asyncio.sleep(0.01)
    finish(first, answer())
    stream.end()
    groups = await reading
    assert [name for group in groups for name in group] == expected


async def test_what_is_ready_together_travels_together() -> None:
    stream = stream_of(10, False)
    members = [pending(name) for name in "abc"]
    for one in members:
        stream.add(one)
    reading = asyncio.create_task(collect(stream))
    await asyncio.sleep(0)
    for one in members:
        finish(one, answer())
    stream.end()
    assert await reading == [["a", "b", "c"]]


async def test_large_answers_do_not_share_a_message() -> None:
    stream = stream_of(10, False)
    for name in "ab":
        one = pending(name)
        finish(one, answer(kibibytes=1024))
        stream.add(one)
    await asyncio.sleep(0)
    stream.end()
    assert await collect(stream) == [["a"], ["b"]]


async def test_errors_are_answers_too() -> None:
    stream = stream_of(10, True)
    stream.add(pending("a", SeqLensError("no")))
    stream.end()
    groups = [group async for group in stream.groups()]
    assert [str(result) for _, result in groups[0].members] == ["no"]


async def test_a_full_window_has_room_again_only_when_an_answer_is_taken() -> None:
    stream = stream_of(1, False)
    one = pending("a")
    stream.add(one)
    waiting = asyncio.create_task(stream.room())
    finish(one, answer())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await anext(stream.groups())
    await asyncio.wait_for(waiting, 1)


async def test_what_is_unanswered_is_bounded_in_bytes_first_of_inputs_then_of_answers() -> None:
    stream = stream_of(10, False, most_bytes=2_000)
    large, small = pending("a", size=2_000), pending("b", size=10)
    stream.add(large)
    stream.add(small)
    waiting = asyncio.create_task(stream.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    finish(large, answer(kibibytes=1))
    await asyncio.wait_for(waiting, 1)
    finish(small, answer(kibibytes=1))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(stream.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await anext(stream.groups())
    await asyncio.wait_for(waiting, 1)


async def test_closing_takes_back_what_waits() -> None:
    stream = stream_of(10, False)
    one = pending("a")
    stream.add(one)
    assert stream.close() == [one]
    assert isinstance(one.started, asyncio.Future)
    assert one.started.cancelled()
    stream.end()
    assert await collect(stream) == []
