"""A server in a process of its own, for the benchmarks that ask one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(repository: Path, *options: str) -> Iterator[str]:
    """A server on free ports; gives its gRPC address."""
    command = [sys.executable, "-m", "seqlens.cli", "serve", "--repository", str(repository)]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--http-port", "0"]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        [*command, *ports, *options], stdout=pipe, stderr=quiet, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith("ready"):
            sys.exit("the server did not start")
        try:
            yield dict(part.split("=", 1) for part in ready.split()[1:])["grpc"]
        finally:
            process.terminate()
