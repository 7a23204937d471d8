"""The waiting room of one model: bounded by work, ordered for the planner."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct
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
# Where no other length is left: (length, number), farther away than any.
_NONE_ABOVE, _NONE_BELOW = (math.inf, -1), (-math.inf, -1)


class _Entry(Struct, Generic[T], frozen=True):
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
        self.add_all([(waiting, item)])

    def add_all(self, arrivals: Sequence[tuple[Waiting, T]]) -> None:
        """Let sequences in. Their numbers must ascend, and be larger than all before them."""
        for waiting, item in arrivals:
            seconds = self._cost.seconds(self._budget.fixed_length or waiting.length, 1)
            self._entries[waiting.number] = _Entry(waiting, item, seconds)
            self._tokens += waiting.length
            self._seconds += seconds
            if waiting.streamed:
                self._streamed += 1
                self._streamed_tokens += waiting.length
        ageing, waits = self._settings.ageing_tokens_per_second, [one for one, _ in arrivals]
        _insert(self._order, [order_key(one, ageing) for one in waits])
        _insert(self._lengths, [(one.length, one.number) for one in waits])
        _insert(
            self._deadlines,
            [(one.deadline, one.number) for one in waits if one.deadline is not None],
        )

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
        return batch, self._take_members(batch)

    def _take_members(self, batch: Batch) -> list[T]:
        numbers = [member.number for member in batch.members]
        if len(numbers) < len(self._entries):
            return [self._take(number) for number in numbers]
        # Emptying the room costs a fraction of taking them out one by one.
        items = [self._entries[number].item for number in numbers]
        self.take_all()
        return items

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
        middle = (seed.length, -1)
        longer = self._lengths.irange(middle)
        shorter = self._lengths.irange(None, middle, reverse=True)
        above, below = next(longer, _NONE_ABOVE), next(shorter, _NONE_BELOW)
        while above is not _NONE_ABOVE or below is not _NONE_BELOW:
            if above[0] - seed.length <= seed.length - below[0]:
                number, above = above[1], next(longer, _NONE_ABOVE)
            else:
                number, below = below[1], next(shorter, _NONE_BELOW)
            yield self._entries[number].waiting


def _insert(holding: SortedList, keys: Sequence[Any]) -> None:
    """Add keys to a sorted container, in the cheaper of its two ways."""
    if len(keys) == 1:
        holding.add(keys[0])
    elif keys:
        holding.update(keys)
