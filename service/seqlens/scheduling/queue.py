"""The waiting room of one model: bounded by work, ordered for the planner."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Generic, TypeVar

from sortedcontainers import SortedList

from seqlens.errors import Overloaded
from seqlens.scheduling.cost import Cost
from seqlens.scheduling.plan import (
    Batch,
    BatchBudget,
    Waiting,
    choose_seed,
    fair_share,
    order_key,
    plan_batch,
)
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import SchedulerSettings

T = TypeVar("T")

# Streams wait for room, so that they would keep a small room full, and every other caller out.
_SHARE_OF_STREAMS = 0.5


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    waiting: Waiting
    item: T
    seconds: float  # predicted, alone


class WaitingRoom(Generic[T]):
    """Sequences of one model that wait for a lane, each with an item that belongs to it.

    Adding and removing take logarithmic time. Not safe for several threads at once: its owner
    holds a lock.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        strategy: Strategy,
        cost: Cost,
        *,
        lanes: int = 1,
        fixed_length: int | None = None,
        longest_shared: int | None = None,
    ) -> None:
        self._settings, self._strategy, self._cost = settings, strategy, cost
        self._lanes = lanes
        self._budget = BatchBudget(
            settings.max_batch_tokens,
            settings.max_batch_sequences,
            fixed_length=fixed_length,
            longest_shared=longest_shared,
        )
        # A plain dict would walk over the holes that earlier removals left at its front.
        self._entries: OrderedDict[int, _Entry[T]] = OrderedDict()  # in order of arrival
        self._order = SortedList()  # (*order_key,)
        self._lengths = SortedList()  # (length, number)
        self._deadlines = SortedList()  # (deadline, number)
        self._tokens = 0
        self._seconds = 0.0
        self._streamed = self._streamed_tokens = 0  # sequences and tokens of streams

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def tokens(self) -> int:
        """Positions that wait."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """Predicted lane seconds of all that waits, without any gain from batches."""
        return max(0.0, self._seconds)

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline of those that wait."""
        return self._deadlines[0][0] if self._deadlines else None

    def oldest_seconds(self, now: float) -> float:
        """How long the first of those that wait has waited; 0 in an empty room."""
        entry = next(iter(self._entries.values()), None)
        return now - entry.waiting.enqueued_at if entry else 0.0

    def has_room_for(self, lengths: Iterable[int]) -> bool:
        """Whether sequences of these lengths may all come in.

        Into an empty room anything may come in, else what is larger than the whole room would
        be refused for ever.
        """
        lengths = list(lengths)
        sequences, tokens = len(self) + len(lengths), self._tokens + sum(lengths)
        fits = (
            sequences <= self._settings.max_waiting_sequences
            and tokens <= self._settings.max_waiting_tokens
        )
        return fits or not self._entries

    def has_room_for_stream(self, lengths: Iterable[int]) -> bool:
        """Whether sequences of a stream may come in: streams leave a part of the room to others."""
        lengths = list(lengths)
        sequences, tokens = self._streamed + len(lengths), self._streamed_tokens + sum(lengths)
        fits = (
            sequences <= self._settings.max_waiting_sequences * _SHARE_OF_STREAMS
            and tokens <= self._settings.max_waiting_tokens * _SHARE_OF_STREAMS
        )
        return (fits or not self._streamed) and self.has_room_for(lengths)

    def check_room_for(self, lengths: Iterable[int]) -> None:
        """Raise ``Overloaded`` unless sequences of these lengths may all come in."""
        if self.has_room_for(lengths):
            return
        raise Overloaded(
            f"{len(self)} sequences with {self._tokens} tokens wait for this model already; "
            f"at most {self._settings.max_waiting_sequences} sequences and "
            f"{self._settings.max_waiting_tokens} tokens may",
            retry_after_seconds=self.seconds / self._lanes,
        )

    def add(self, waiting: Waiting, item: T) -> None:
        """Let a sequence in. Its number must be larger than all before it."""
        seconds = self._cost.seconds(self._budget.fixed_length or waiting.length, 1)
        self._entries[waiting.number] = _Entry(waiting, item, seconds)
        self._order.add(order_key(waiting, self._settings.ageing_tokens_per_second))
        self._lengths.add((waiting.length, waiting.number))
        if waiting.deadline is not None:
            self._deadlines.add((waiting.deadline, waiting.number))
        self._tokens += waiting.length
        self._seconds += seconds
        if waiting.streamed:
            self._streamed += 1
            self._streamed_tokens += waiting.length

    def remove(self, number: int) -> T | None:
        """Take one sequence out; None if it does not wait here any more."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return None
        waiting = entry.waiting
        self._order.remove(order_key(waiting, self._settings.ageing_tokens_per_second))
        self._lengths.remove((waiting.length, number))
        if waiting.deadline is not None:
            self._deadlines.remove((waiting.deadline, number))
        self._tokens -= waiting.length
        if waiting.streamed:
            self._streamed -= 1
            self._streamed_tokens -= waiting.length
        self._seconds = self._seconds - entry.seconds if self._entries else 0.0
        return entry.item

    def take_expired(self, now: float) -> list[T]:
        """Take out all sequences whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            expired.append(self._take(self._deadlines[0][1]))
        return expired

    def take_all(self) -> list[T]:
        """Empty the room, in order of arrival."""
        items = [entry.item for entry in self._entries.values()]
        for holding in (self._entries, self._order, self._lengths, self._deadlines):
            holding.clear()
        self._tokens, self._seconds = 0, 0.0
        self._streamed = self._streamed_tokens = 0
        return items

    def take_batch(self, now: float, idle_lanes: int = 0) -> tuple[Batch, list[T]] | None:
        """Take out the sequences to run next, with their items in the same order."""
        if not self._entries:
            return None
        seed = self._seed(now)
        batch = plan_batch(
            seed,
            self._mates(seed),
            strategy=self._strategy,
            budget=self._budget,
            cost=self._cost,
            share=fair_share(len(self), idle_lanes),
        )
        return batch, [self._take(member.number) for member in batch.members]

    def _take(self, number: int) -> T:
        item = self.remove(number)
        assert item is not None
        return item

    def _seed(self, now: float) -> Waiting:
        first = self._entries[self._order[0][-1]].waiting
        oldest = next(iter(self._entries.values())).waiting
        return choose_seed(first, oldest, now, self._settings.max_age_seconds)

    def _mates(self, seed: Waiting) -> Iterator[Waiting]:
        """All that wait, nearest length first.

        Ageing mixes lengths in the order of urgency, so neighbours there rarely fit; near
        lengths are what makes a batch cheap.
        """
        longer = self._lengths.irange((seed.length, -1))
        shorter = self._lengths.irange(None, (seed.length, -1), reverse=True)
        nearest = merge(longer, shorter, key=lambda entry: abs(entry[0] - seed.length))
        return (self._entries[number].waiting for _, number in nearest)
