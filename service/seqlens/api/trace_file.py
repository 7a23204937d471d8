"""The file of traces: a JSON list that is whole after every trace, written by a thread."""

import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Full, Queue
from typing import Any

import orjson
import structlog

# Some seconds of traces of a busy server. What finds no room is lost: requests do not wait.
MOST_WAITING = 8_192

_log = structlog.get_logger("seqlens.tracing")
_Traced = tuple[Mapping[str, Any], int]


class TraceFile:
    """Takes traces on the event loop and writes them in a thread of its own.

    A trace goes into the file itself, or, with ``file_traces``, into one of several that hold so
    many each: FILE.0, FILE.1, ... Files that an earlier run left are overwritten.
    """

    def __init__(self, path: Path, most_waiting: int = MOST_WAITING) -> None:
        self._path = path
        self._waiting: Queue[_Traced | None] = Queue(most_waiting)
        self._thread: threading.Thread | None = None
        self._begun: set[Path] = set()
        self._numbered = 0  # traces in numbered files
        self._lost = 0

    def add(self, trace: Mapping[str, Any], file_traces: int = 0) -> None:
        """Have a trace written soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="seqlens-traces")
            self._thread.start()
        try:
            self._waiting.put_nowait((trace, file_traces))
        except Full:
            self._lost += 1

    def close(self) -> None:
        """Write what waits, and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
        if self._lost:
            _log.warning("traces were lost, the disk being too slow", traces=self._lost)

    def _write_all(self) -> None:
        while (traced := self._waiting.get()) is not None:
            trace, file_traces = traced
            path = self._path
            if file_traces:
                path = path.with_name(f"{path.name}.{self._numbered // file_traces}")
                self._numbered += 1
            try:
                self._write(path, orjson.dumps(trace))
            except OSError as error:
                # Those that follow are tried again: somebody may make room.
                _log.error("a trace could not be written", file=str(path), reason=error.strerror)

    def _write(self, path: Path, trace: bytes) -> None:
        # What turns logs over may have taken the file away.
        if path not in self._begun or not path.exists():
            path.write_bytes(b"[" + trace + b"]")
            self._begun.add(path)
            return
        with path.open("r+b") as file:
            file.seek(-1, 2)  # the bracket at the end
            file.write(b",\n" + trace + b"]")
