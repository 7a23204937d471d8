"""Who uses which series, so that they appear at load and go when their last user goes."""

import threading
from collections import Counter as Multiset
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge

from seqlens.metrics.histogram import Histogram

Family = TypeVar("Family", Counter, Gauge, Histogram)
Key = TypeVar("Key")
Child = TypeVar("Child")

_Series = tuple[Counter | Gauge | Histogram, tuple[str, ...]]


class Children(dict[Key, Child], Generic[Key, Child]):
    """Series of one family by the labels that vary; one that is missing is made on first use."""

    def __init__(self, make: Callable[[Key], Child], keys: Iterable[Key]) -> None:
        super().__init__((key, make(key)) for key in keys)
        self._make = make

    def __missing__(self, key: Key) -> Child:
        child = self[key] = self._make(key)
        return child


class SeriesLedger:
    """Counts the users of each series: one that two versions share goes with the last of them."""

    def __init__(self) -> None:
        self._users: Multiset[_Series] = Multiset()
        self._lock = threading.Lock()

    def take(self, family: Family, values: tuple[str, ...]) -> Family:
        """The series with these label values, made at zero if it is new."""
        with self._lock:
            self._users[family, values] += 1
            return family.labels(*values)

    def give_back(self, family: Counter | Gauge | Histogram, values: tuple[str, ...]) -> None:
        """Remove the series unless someone else uses it."""
        with self._lock:
            self._users[family, values] -= 1
            if not self._users[family, values]:
                del self._users[family, values]
                family.remove(*values)


class OwnedSeries:
    """The series that one owner took from the ledger, to be given back together."""

    def __init__(self, ledger: SeriesLedger) -> None:
        self._ledger = ledger
        self._taken: list[_Series] = []
        self._released = False
        self._lock = threading.Lock()

    def take(self, family: Family, *values: str) -> Family:
        """The series with these label values, shown until ``release``."""
        with self._lock:
            child = self._ledger.take(family, values)
            if self._released:  # a lane's last words about a model that is gone are not shown
                self._ledger.give_back(family, values)
            else:
                self._taken.append((family, values))
            return child

    def release(self) -> None:
        """Show these series no more. Children already held stay safe to use."""
        with self._lock:
            self._released = True
            for family, values in self._taken:
                self._ledger.give_back(family, values)
            self._taken.clear()
