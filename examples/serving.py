"""`seqlens serve` in a process of its own, for the examples."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Addresses:
    rest: str
    grpc: str
    metrics: str


@contextmanager
def served(repository: Path, log: Path) -> Iterator[Addresses]:
    """Serve a repository on free ports; the server ends with the block."""
    command = [sys.executable, "-m", "seqlens.cli", "serve", "--repository", str(repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as lines,
        subprocess.Popen(
            [*command, *ports], stdout=subprocess.PIPE, stderr=lines, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line.startswith("ready "):
            sys.exit(f"the server did not start: {log.read_text()}")
        print(line)
        parts = dict(part.split("=", 1) for part in line.split()[1:])
        try:
            yield Addresses(parts["rest"], parts["grpc"], parts["metrics"])
        finally:
            process.terminate()
