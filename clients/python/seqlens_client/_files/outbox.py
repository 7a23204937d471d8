"""Rows that wait for their answers, and leave in the order in which they came."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqlens_client._answers import Outcome
from seqlens_client._errors import SeqLensError
from seqlens_client._files.rows import Row

# Bounds of what is held in memory, whatever the size of the file.
MOST_ROWS = 1024
MOST_BYTES = 32 * 1024 * 1024

Settled = tuple[Row, Outcome]
Write = Callable[[Sequence[Settled]], None]


@dataclass(slots=True)
class _Waiting:
    row: Row
    outcome: Outcome | None


class Outbox:
    """Stands between the thread that sends rows and the one that receives answers.

    Whichever of them settles the oldest row writes it and those settled behind it. A row that
    cannot be sent is settled from the start, so that any number of them needs no memory.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._rows: deque[_Waiting] = deque()
        self._sent: dict[int, _Waiting] = {}  # by the number that the exchange gives them
        self._next = 0
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether the next row has to wait for the oldest one's answer."""
        return len(self._rows) >= MOST_ROWS or self._bytes >= MOST_BYTES

    def wait_for_room(self) -> bool:
        """Wait for room for a row; false if the outbox was closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.full)
            return not self._closed

    def add(self, row: Row) -> None:
        """Take a row that is sent next, or that never will be because it is an error."""
        with self._changed:
            error = row.sequence if isinstance(row.sequence, SeqLensError) else None
            waiting = _Waiting(row, error)
            self._rows.append(waiting)
            self._bytes += row.size
            if error is not None:
                self._write_settled()
            else:
                self._sent[self._next] = waiting
                self._next += 1

    def settle(self, number: int, outcome: Outcome) -> None:
        """Take what became of a row that was sent."""
        with self._changed:
            self._sent.pop(number).outcome = outcome
            self._write_settled()
            self._changed.notify_all()

    def close(self) -> None:
        """Write no more, and let nobody wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _write_settled(self) -> None:
        settled: list[Settled] = []
        while self._rows and (outcome := self._rows[0].outcome) is not None:
            waiting = self._rows.popleft()
            self._bytes -= waiting.row.size
            settled.append((waiting.row, outcome))
        if not settled or self._closed:
            return
        try:
            self._write(settled)
        except BaseException:
            # The file ends where that happened; a row behind it would hide what is missing.
            self._closed = True
            raise
