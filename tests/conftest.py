"""A repository of the example models and real servers, each in a process of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support import attention_table

START_SECONDS = 90


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that has said that it is ready."""

    process: subprocess.Popen[str]
    ready_line: str
    log: Path  # its standard error

    def address(self, name: str) -> str:
        """What the ready line gives for ``rest``, ``grpc``, ``metrics`` or ``models``."""
        pairs = dict(word.split("=") for word in self.ready_line.split()[1:])
        return pairs[name]

    @property
    def rest(self) -> str:
        return self.address("rest")

    @property
    def grpc(self) -> str:
        return self.address("grpc")

    @property
    def metrics(self) -> str:
        return self.address("metrics")


def command(*arguments: str) -> list[str]:
    """The command line of ``seqlens`` in this environment."""
    return [sys.executable, "-m", "seqlens.cli", *arguments]


@contextmanager
def serving(repository: Path, folder: Path, *options: str) -> Iterator[RunningServer]:
    """Run ``seqlens serve`` on free ports until the end of the block."""
    log = folder / "server.log"
    arguments = ["--repository", str(repository), "--cache", str(folder / "cache")]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    threads = ["--lanes", "1", "--load-workers", "2"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command("serve", *arguments, *ports, *threads, *options),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        # A server that never gets ready ends here instead of holding up the tests.
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            watchdog.cancel()
            assert line.startswith("ready "), f"no ready line; its log:\n{log.read_text()}"
            yield RunningServer(process, line, log)
        finally:
            watchdog.cancel()
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six example models, exported."""
    folder = tmp_path_factory.mktemp("repository")
    export = [sys.executable, "-m", "seqlens_zoo.export", "--repository", str(folder)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of the six models, shared by all tests that leave it as it is."""
    with serving(repository, tmp_path_factory.mktemp("server")) as running:
        yield running


StartServer = Callable[..., RunningServer]


@contextmanager
def starter(folders: pytest.TempPathFactory) -> Iterator[StartServer]:
    """A function that starts servers, ``start(repository, *options)``, which end together."""
    with ExitStack() as stack:

        def start(repository: Path, *options: str) -> RunningServer:
            return stack.enter_context(serving(repository, folders.mktemp("server"), *options))

        yield start


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start further servers, which end with the test: ``start_server(repository, *options)``."""
    with starter(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """The same for servers that a module's tests share."""
    with starter(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def target(server: RunningServer) -> str:
    """Address of the shared server."""
    return server.grpc


@pytest.fixture(scope="session")
def seqlens() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``seqlens`` with arguments to its end; keyword ``env`` adds to the environment."""

    def run(*arguments: str, env: dict[str, str] | None = None, text: str = "") -> Any:
        # Help must not depend on how wide the terminal is that the tests run in.
        environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"} | (env or {})
        return subprocess.run(
            command(*arguments),
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def pytest_sessionfinish() -> None:
    """Write the table of attention weights, where its tests were asked to measure it anew."""
    attention_table.write()
