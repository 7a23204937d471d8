"""One server with TLS, certificates of clients and keys, shared by all tests in this folder.

Those that replace its files put them back.
"""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.conftest import RunningServer, starter
from tests.support.authority import KEY, MODEL, Authority, Files


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="session")
def ours(folder: Path) -> Authority:
    return Authority(folder / "ours")


@pytest.fixture(scope="session")
def other(folder: Path) -> Authority:
    return Authority(folder / "other")


@pytest.fixture(scope="session")
def files(folder: Path, ours: Authority) -> Files:
    files = Files(folder)
    files.certify(ours)
    files.keys.write_text(f"# the tests\n{KEY}\n")
    return files


@pytest.fixture(scope="session")
def secured(
    repository: Path, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    options = {
        "--security.certificate": files.certificate,
        "--security.private-key": files.private_key,
        "--security.client-ca": files.client_ca,
        "--security.keys": files.keys,
    }
    words = [str(word) for pair in options.items() for word in pair]
    with starter(tmp_path_factory) as start:
        yield start(repository / MODEL, *words)


@pytest.fixture
def channel(secured: RunningServer, ours: Authority) -> Iterator[grpc.Channel]:
    with grpc.secure_channel(secured.grpc, ours.credentials()) as channel:
        yield channel
