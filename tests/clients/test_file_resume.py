"""Files that are gone on with after a stop of any kind, and are larger than memory should be."""

import asyncio
import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tests.clients.conftest import eventually, read_lines, write_lines

import seqlens_client as sdk


async def test_a_server_that_goes_away_stops_the_job_which_then_goes_on(
    client: Any, fake: Any, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[index] for index in range(500)])
    fake.models.leaves_after = 3  # messages
    with pytest.raises(sdk.Unavailable):
        await client.process_file("echo", source)
    written = len(read_lines(tmp_path / "x.answers.jsonl"))
    assert 0 < written < 500
    fake.models.leaves_after = None
    summary = await client.process_file("echo", source)
    assert (summary.resumed_from, summary.rows, summary.errors) == (written, 500, 0)


async def test_cancelling_the_task_stops_the_job_and_frees_the_file(
    fake: Any, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1]])
    async with sdk.AsyncClient(fake.address) as client:
        task = asyncio.create_task(client.process_file("forgetful-for-ever", source))
        await eventually(lambda: bool(fake.models.messages))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not (tmp_path / "x.answers.jsonl").read_bytes()
        fake.models.messages.clear()
        again = asyncio.create_task(client.process_file("forgetful-for-ever", source))
        await eventually(lambda: bool(fake.models.messages))  # for the file is free
    with pytest.raises(sdk.Cancelled):
        await again


KILLED = """
import sys
from seqlens_client import Client
with Client(sys.argv[1]) as client:
    client.process_file("rnn-onnx", sys.argv[2], sys.argv[3], progress=False)
"""


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_killed_at_any_time_it_goes_on_with_the_rows_that_are_missing(
    suffix: str, target: str, tmp_path: Path
) -> None:
    chance = random.Random(suffix)
    rows = [[chance.randrange(1, 50) for _ in range(chance.randrange(1, 9))] for _ in range(1500)]
    rows[700] = [-1]
    source, destination = tmp_path / "x.jsonl", tmp_path / f"y.{suffix}"
    write_lines(source, rows)
    journal = destination.with_name("y.parquet.rows") if suffix == "parquet" else destination
    arguments = [sys.executable, "-c", KILLED, target, str(source), str(destination)]
    sizes = [0]
    for _ in range(2):
        process = subprocess.Popen(arguments)
        while process.poll() is None and (
            not journal.exists() or journal.stat().st_size <= sizes[-1] + 10_000
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(journal.stat().st_size)
    with journal.open("ab") as file:
        file.write(b'{"input":"torn')  # as a write that the kill cut short
    with sdk.Client(target) as client:
        summary = client.process_file("rnn-onnx", source, destination, progress=False)
        expected = client.infer("rnn-onnx", rows, return_errors=True)
    assert 0 < summary.resumed_from < 1500
    assert (summary.rows, summary.errors) == (1500, 1)
    answers = read_any(destination)
    assert [row["input"] for row in answers] == rows
    for answer, result in zip(answers, expected, strict=True):
        if isinstance(result, sdk.SeqLensError):
            assert answer["error"]
        else:
            np.testing.assert_allclose(answer["output"], result.output, atol=1e-3)


def read_any(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return read_lines(path)
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    for record in records:
        for name in ("input", "output"):
            record[name] = json.loads(record[name]) if record[name] else None
    return records


def test_memory_does_not_grow_with_the_file(target: str, tmp_path: Path) -> None:
    program = """
import re, sys
from pathlib import Path
from seqlens_client import Client
with Client(sys.argv[1]) as client:
    client.process_file("rnn-onnx", sys.argv[2], progress=False)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    peaks = []
    for copies in (1, 60):
        source = tmp_path / f"{copies}.jsonl"
        note = "x" * 40_000  # of the source's own columns, which are not sent
        write_lines(source, [{"input": [1, 2], "note": note}] * (32 * copies))
        run = [sys.executable, "-c", program, target, str(source)]
        peaks.append(int(subprocess.check_output(run)) / 1024)
    assert source.stat().st_size > 75_000_000
    assert peaks[1] < peaks[0] + 60, peaks
