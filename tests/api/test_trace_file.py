"""The file of traces, and what happens when it cannot be written."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from seqlens.api.trace_file import TraceFile


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


def read(path: Path) -> list[int]:
    return [one["id"] for one in json.loads(path.read_text())]


def test_the_file_is_whole_after_every_trace(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    file = TraceFile(path)
    for number in range(3):
        file.add({"id": number})
        wait_until(lambda: path.exists() and len(read(path)) == number + 1)  # noqa: B023
    file.close()
    assert read(path) == [0, 1, 2]


def test_what_an_earlier_run_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    path.write_text("not JSON")
    file = TraceFile(path)
    file.add({"id": 1})
    file.close()
    assert read(path) == [1]


def test_a_file_that_is_taken_away_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    file = TraceFile(path)
    file.add({"id": 1})
    wait_until(path.exists)
    path.rename(tmp_path / "old")
    file.add({"id": 2})
    file.close()
    assert read(path) == [2]


def test_numbered_files_hold_so_many_each(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "traces")
    for number in range(5):
        file.add({"id": number}, file_traces=2)
    file.close()
    assert [read(tmp_path / f"traces.{n}") for n in range(3)] == [[0, 1], [2, 3], [4]]


def test_traces_are_tried_again_when_a_disk_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "traces"
    file = TraceFile(path)
    file.add({"id": 1})
    time.sleep(0.05)
    path.parent.mkdir()
    file.add({"id": 2})
    file.close()
    assert read(path)[-1] == 2


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    os.mkfifo(path)  # opening it to write waits for a reader
    file = TraceFile(path, most_waiting=3)
    begun = time.monotonic()
    for number in range(100):
        file.add({"id": number})
    assert time.monotonic() - begun < 1
    reader = os.open(path, os.O_RDONLY)
    file.close()
    assert json.loads(os.read(reader, 1000)) == [{"id": 0}]
    os.close(reader)
