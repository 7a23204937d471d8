"""Values that are read from files, and read again when the files change."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger("seqlens.security")

Value = TypeVar("Value")
Signature = list[tuple[int, int, int] | None]

# Between two looks at the files, however often the value is asked for.
LOOK_SECONDS = 1.0


class Watched(Generic[Value]):
    """What ``read`` makes of the files, as they are now.

    There is no thread: whoever asks for the value looks at the files first, at most once a
    second. What cannot be read is logged, and the value from before goes on. Raises whatever
    ``read`` raises when it is made.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], Value]) -> None:
        self._files, self._read = tuple(files), read
        # gRPC asks from threads of its own.
        self._lock = threading.Lock()
        self._signature = self._sign()
        self._value = read()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def current(self) -> Value:
        """The value; the same object for as long as the files stay the same."""
        if time.monotonic() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._next_look = time.monotonic() + LOOK_SECONDS
                self._lock.release()
        return self._value

    def _look(self) -> None:
        signature = self._sign()
        if signature == self._signature:
            return
        files = [str(path) for path in self._files]
        try:
            value = self._read()
        except Exception as error:
            self._signature = signature
            _log.error("changed files refused, the old go on", files=files, reason=str(error))
            return
        # Files that are being written may not belong together: the next look decides.
        if self._sign() == signature:
            self._signature, self._value = signature, value
            _log.info("changed files read", files=files)

    def _sign(self) -> Signature:
        return [_sign(path) for path in self._files]


def _sign(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
