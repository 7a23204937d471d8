"""The REST transport with routes that show what it does, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.http_wire import ask, head

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class ProbeServer:
    """The transport with the routes of ``tests/support/rest_server.py``."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def seen(self) -> dict[str, int]:
        """Waits that have begun and were left, and the peak of memory in MiB."""
        seen: dict[str, int] = ask(self.address, head("GET", "/seen")).json
        return seen


@contextmanager
def probing(folder: Path, limits: dict[str, Any]) -> Iterator[ProbeServer]:
    log = folder / "server.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.rest_server", json.dumps(limits)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, log.read_text()
        yield ProbeServer(process, f"127.0.0.1:{port}", log)
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture(scope="package")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbeServer]:
    """With its usual limits, but for bodies of 4 MiB at most."""
    limits = {"max_message_bytes": 4 << 20}
    with probing(tmp_path_factory.mktemp("probe"), limits) as running:
        yield running
    # Nothing that clients did is a fault of the server's.
    log = running.log.read_text().splitlines()
    assert [line for line in log if "uvicorn" in line or "Traceback" in line] == []


@pytest.fixture
def start_probe(tmp_path: Path) -> Callable[..., Any]:
    """A server for one test, with limits given by name: ``with start_probe(...) as probe``."""
    return lambda **limits: probing(tmp_path, limits)


@pytest.fixture(scope="package")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbeServer]:
    """With short times for everything."""
    limits = {
        "header_timeout_seconds": 0.4,
        "body_timeout_seconds": 0.4,
        "keep_alive_seconds": 0.6,
    }
    with probing(tmp_path_factory.mktemp("hasty"), limits) as running:
        yield running
