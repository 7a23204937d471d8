"""Rest for threads whose work can wait, while plain requests need the processors."""

import time
from collections.abc import Callable

_LONGEST_REST_SECONDS = 1.0
_LOOK_SECONDS = 0.001


class Rests:
    """Lets one thread rest from its work while plain requests need the processors."""

    def __init__(self, share: float, busy: Callable[[], bool]) -> None:
        self._worth = (1 - share) / share  # of rest, a second of work
        self._busy = busy
        self._begun = 0.0  # of the work since the last rest
        self._until = 0.0  # of the rest that the work before is worth

    def begin(self, unwanted: Callable[[], bool]) -> None:
        """Work begins or goes on, after what is left of the rest if it is still wanted."""
        while time.monotonic() < self._until and self._busy() and not unwanted():
            time.sleep(_LOOK_SECONDS)
        self._begun = time.monotonic()

    def end(self) -> None:
        """Work ends, or is interrupted."""
        now = time.monotonic()
        self._until = now + min(_LONGEST_REST_SECONDS, self._worth * (now - self._begun))
