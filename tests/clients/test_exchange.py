import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens_client import ServerError
from seqlens_client._exchange import Exchange
from seqlens_client._operations import Selection
from seqlens_client._sequences import MESSAGE_SEQUENCES, grouped
from seqlens_wire.pb.sequences_pb2 import (
    Answers,
    ProcessStreamResponse,
    SequenceError,
    SequenceResult,
)


def exchange(window: int = 64) -> Exchange:
    selection = Selection("model")
    return Exchange(selection, window=window, keep_order=True, return_errors=True, timeout=None)


def refusal(*ids: str) -> ProcessStreamResponse:
    results = [SequenceResult(error=SequenceError(code="INTERNAL")) for _ in ids]
    return ProcessStreamResponse(ids=ids, answers=Answers(results=results))


@given(st.integers(1, 300), st.integers(0, 400), st.randoms())
def test_no_more_than_the_window_is_ever_unanswered_and_nothing_is_lost(
    window: int, count: int, random: st.DataObject
) -> None:
    state = exchange(window)
    waiting: list[str] = []
    answered: list[int] = []
    for group in grouped([[0]] * count, state.group_limit):
        while not state.has_room(group):
            waiting.sort(key=lambda _: random.random())
            answered += [index for index, _ in state.outcomes(refusal(waiting.pop()))]
        waiting += state.request(group).sequences.ids
        assert len(waiting) <= window
    answered += [index for index, _ in state.outcomes(refusal(*waiting))]
    state.all_sent = True
    state.finish()
    assert sorted(answered) == list(range(count))


@given(st.integers(1, 10_000))
def test_a_window_holds_several_messages(window: int) -> None:
    limit = exchange(window).group_limit
    assert 1 <= limit <= MESSAGE_SEQUENCES
    assert limit * 4 <= max(window, 4)


@pytest.mark.parametrize("sequence_id", ["1", "-1", "x", ""])
def test_answers_to_what_was_not_asked_are_refused(sequence_id: str) -> None:
    state = exchange()
    state.request(next(grouped([[0]])))
    with pytest.raises(ServerError, match="was not asked"):
        state.outcomes(refusal(sequence_id))


def test_a_closed_exchange_keeps_no_sender_waiting() -> None:
    state = exchange(window=1)
    group = next(grouped([[0]]))
    state.request(group)
    assert not state.has_room(group)
    state.closed = True
    assert state.has_room(group)
