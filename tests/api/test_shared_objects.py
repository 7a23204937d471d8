"""What lies under a key of shared memory is looked at before it is taken."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from seqlens.api.shared_objects import FOLDER, check_part, open_object
from seqlens.errors import InvalidRequest

NOBODY = 65_534


@pytest.fixture
def path() -> Iterator[Path]:
    """Where an object may be made; what is there in the end is removed."""
    path = Path(FOLDER) / f"seqlens-test-{uuid4()}"
    yield path
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def opened(key: str) -> None:
    """Open an object of at least eight bytes, as registering a region does."""
    descriptor = open_object(key)
    try:
        check_part(descriptor, key, 0, 8)
    finally:
        os.close(descriptor)


def test_a_key_may_begin_with_a_slash_or_not(path: Path) -> None:
    path.write_bytes(bytes(8))
    opened(path.name)
    opened(f"/{path.name}")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "/..",
        "//x",
        "x/y",
        "../etc/passwd",
        "/../etc/passwd",
        "/dev/shm/x",
        "x\0y",
        "x" * 256,
        "é" * 200,  # short enough in characters, too long in bytes
        "\ud800",
        "seqlens-test-of-no-such-object",
    ],
)
def test_a_key_that_names_no_object_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_object(key)
    assert caught.value.field == "key"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (os.mkfifo, "not memory"),
        (os.mkdir, "Is a directory"),
        (make_socket, "No such device"),
        (lambda path: path.symlink_to("/etc/passwd"), "symbolic link"),
    ],
    ids=["pipe", "folder", "socket", "symbolic link"],
)
def test_what_is_not_memory_is_refused(make: Callable[[Path], None], got: str, path: Path) -> None:
    make(path)
    with pytest.raises(InvalidRequest) as caught:
        opened(path.name)
    assert caught.value.field == "key"
    assert got in caught.value.got


def test_memory_that_the_server_may_not_touch_is_refused(path: Path) -> None:
    path.write_bytes(bytes(8))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may touch everything
        os.seteuid(NOBODY)
    try:
        with pytest.raises(InvalidRequest) as caught:
            opened(path.name)
    finally:
        os.seteuid(user)
    assert "Permission denied" in caught.value.got


@pytest.mark.parametrize(
    ("offset", "byte_size", "field"),
    [
        (0, 0, "byte_size"),
        (0, -1, "byte_size"),
        (0, 101, "byte_size"),
        (100, 1, "byte_size"),
        (-1, 8, "offset"),
        (2**64 - 1, 8, "byte_size"),
        (8, 2**64 - 1, "byte_size"),
        (2**64 - 8, 16, "byte_size"),  # comes to 8 where sums wrap
    ],
)
def test_a_part_that_the_object_does_not_have_is_refused(
    offset: int, byte_size: int, field: str, path: Path
) -> None:
    path.write_bytes(bytes(100))
    descriptor = open_object(path.name)
    try:
        with pytest.raises(InvalidRequest) as caught:
            check_part(descriptor, path.name, offset, byte_size)
        check_part(descriptor, path.name, 1, 99)
    finally:
        os.close(descriptor)
    assert caught.value.field == field
