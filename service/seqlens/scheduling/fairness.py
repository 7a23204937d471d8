"""Lane time shared between models: start-time fair queueing over measured seconds."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare:
    """Says whose turn it is. Whoever used the least lane time goes first.

    After Goyal, Vin and Cheng, "Start-time Fair Queueing" (1996). A model that had nothing to do
    does not save up time: it starts where the others are. Not safe for several threads at once.
    """

    def __init__(self) -> None:
        self._used: dict[Hashable, float] = {}
        self._clock = 0.0  # start tag of the last unit of work

    def in_turn(self, models: Iterable[K]) -> list[K]:
        """The models, the most entitled first."""
        return sorted(models, key=self._start)

    def charge(self, model: Hashable, seconds: float) -> None:
        """Note that work of so many predicted seconds was started."""
        start = self._start(model)
        self._clock = max(self._clock, start)
        self._used[model] = start + seconds

    def correct(self, model: Hashable, seconds: float) -> None:
        """Add what the work took beyond the prediction (less: a negative number)."""
        if model in self._used:
            self._used[model] += seconds

    def forget(self, model: Hashable) -> None:
        """Drop a model that is gone."""
        self._used.pop(model, None)

    def _start(self, model: Hashable) -> float:
        return max(self._used.get(model, 0.0), self._clock)
