"""Regions of shared memory: registered, read and written, whatever their owners do to them."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.requests import SharedPlace
from seqlens.api.shared_memory import MAX_REGIONS, SharedMemory, SharedWrite
from seqlens.api.shared_objects import FOLDER
from seqlens.errors import InvalidRequest, MessageTooLarge, RegionExists, RegionNotFound

LIMIT = 1_000


@pytest.fixture(scope="module")
def new_object() -> Iterator[Callable[[bytes], Path]]:
    """Make objects of shared memory, which are removed in the end."""
    paths = []

    def make(data: bytes) -> Path:
        path = Path(FOLDER) / f"seqlens-test-{uuid4()}"
        path.write_bytes(data)
        paths.append(path)
        return path

    yield make
    for path in paths:
        path.unlink(missing_ok=True)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory(LIMIT)
    yield memory
    memory.close()


def read(memory: SharedMemory, offset: int, byte_size: int, region: str = "r") -> bytes:
    (data,) = memory.read_all([(SharedPlace(region, offset, byte_size), "inputs.x")])
    return data


def write(offset: int, byte_size: int, data: bytes, region: str = "r") -> SharedWrite:
    return SharedWrite(SharedPlace(region, offset, byte_size), data, "outputs.y")


def test_a_place_counts_from_where_its_region_begins(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path = new_object(bytes(range(100)))
    memory.register("r", path.name, 10, 50)
    assert read(memory, 5, 3) == bytes([15, 16, 17])
    assert read(memory, 0, 50) == bytes(range(10, 60))
    assert read(memory, 50, 0) == b""
    memory.write_all([write(40, 10, b"0123456789"), write(0, 4, b"ab")])
    assert path.read_bytes()[50:60] == b"0123456789"
    # The rest of a place stays as it is.
    assert path.read_bytes()[10:14] == b"ab" + bytes([12, 13])


def test_regions_are_told_and_forgotten_by_name_or_all_at_once(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path = new_object(bytes(10))
    for name in ("a", "b", "c"):
        memory.register(name, f"/{path.name}", 2, 8)
    assert [(r.name, r.key, r.offset, r.byte_size) for r in memory.status("b")] == [
        ("b", f"/{path.name}", 2, 8)
    ]
    memory.unregister("b")
    memory.unregister("never")
    assert [region.name for region in memory.status("")] == ["a", "c"]
    with pytest.raises(RegionNotFound):
        memory.status("b")
    memory.unregister("")
    assert memory.status("") == []


def test_a_name_stands_for_one_region(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    first, second = new_object(b"first"), new_object(b"second")
    memory.register("r", first.name, 0, 5)
    with pytest.raises(RegionExists, match="'r'"):
        memory.register("r", second.name, 0, 5)
    assert read(memory, 0, 5) == b"first"
    memory.unregister("r")
    memory.register("r", second.name, 0, 5)
    assert read(memory, 0, 5) == b"secon"


@pytest.mark.parametrize("name", ["", "n" * 1_001])
def test_a_region_needs_a_name_of_a_fair_length(
    name: str, memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        memory.register(name, new_object(b"x").name, 0, 1)
    assert caught.value.field == "name"


def test_the_number_of_regions_is_bounded_and_none_leaves_a_file_open(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path, before = new_object(bytes(8)), len(os.listdir("/proc/self/fd"))
    for number in range(MAX_REGIONS):
        memory.register(str(number), path.name, 0, 8)
    with pytest.raises(InvalidRequest, match="at most"):
        memory.register("more", path.name, 0, 8)
    with pytest.raises(InvalidRequest) as caught:
        memory.check(SharedPlace("unknown", 0, 1), "inputs.x")
    assert len(caught.value.expected) < 100  # of hundreds of names only some are told
    memory.unregister("7")
    with pytest.raises(InvalidRequest):
        memory.register("too large", path.name, 0, 9)
    memory.register("more", path.name, 0, 8)
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("region", "offset", "byte_size", "field"),
    [
        ("other", 0, 1, "shared_memory_region"),
        ("r", 0, 51, "shared_memory_byte_size"),
        ("r", 50, 1, "shared_memory_byte_size"),
        ("r", 2**64 - 1, 1, "shared_memory_byte_size"),
        ("r", 2**64 - 1, 0, "shared_memory_byte_size"),
        ("r", 2**64 - 1, 2, "shared_memory_byte_size"),  # comes to 1 where sums wrap
    ],
)
def test_a_place_outside_of_the_registered_part_is_refused(
    region: str,
    offset: int,
    byte_size: int,
    field: str,
    memory: SharedMemory,
    new_object: Callable[[bytes], Path],
) -> None:
    path = new_object(bytes(100))
    memory.register("r", path.name, 10, 50)
    place = SharedPlace(region, offset, byte_size)
    for use in (
        lambda: memory.check(place, "inputs.x"),
        lambda: memory.read_all([(place, "inputs.x")]),
        lambda: memory.write_all([SharedWrite(place, b"", "inputs.x")]),
    ):
        with pytest.raises(InvalidRequest) as caught:
            use()
        assert caught.value.field == f"inputs.x.parameters.{field}"
    assert path.read_bytes() == bytes(100)


def test_an_unlinked_region_can_be_used_until_it_is_forgotten(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path = new_object(b"0123456789")
    memory.register("r", path.name, 0, 10)
    path.unlink()
    assert read(memory, 0, 10) == b"0123456789"
    memory.write_all([write(0, 1, b"a")])
    assert read(memory, 0, 2) == b"a1"


def test_a_region_that_has_shrunk_is_refused_and_not_made_larger(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path = new_object(bytes(100))
    memory.register("r", path.name, 0, 100)
    for size in (99, 40, 0):
        os.truncate(path, size)
        with pytest.raises(InvalidRequest, match="become smaller"):
            read(memory, 0, 100)
        with pytest.raises(InvalidRequest, match="become smaller"):
            memory.write_all([write(0, 100, bytes(100))])
        assert path.stat().st_size == size
    os.truncate(path, 100)
    assert read(memory, 0, 100) == bytes(100)


def test_nothing_is_written_where_one_of_several_outputs_has_no_room(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path, shrunk = new_object(bytes(100)), new_object(bytes(100))
    memory.register("r", path.name, 0, 100)
    memory.register("s", shrunk.name, 0, 100)
    os.truncate(shrunk, 5)
    good = write(0, 10, b"x" * 10)
    for bad in (
        write(10, 9, b"y" * 10),
        write(0, 10, b"y" * 10, region="s"),
        write(0, 10, b"y" * 10, region="unknown"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            memory.write_all([good, bad])
        assert caught.value.field.startswith("outputs.y.parameters.shared_memory_")
    assert path.read_bytes() == bytes(100)


def test_a_request_copies_no_more_than_a_message_holds(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    path = new_object(b"")
    os.truncate(path, 2**40)  # takes no memory
    memory.register("r", path.name, 0, 2**40)
    half = (SharedPlace("r", 2**39, LIMIT // 2), "inputs.x")
    assert memory.read_all([half, half]) == [bytes(LIMIT // 2)] * 2
    for places in ([half] * 3, [(SharedPlace("r", 0, 2**40), "inputs.x")]):
        with pytest.raises(MessageTooLarge, match=f"at most {LIMIT} "):
            memory.read_all(places)


def test_short_reads_and_writes_go_on_to_the_end(
    memory: SharedMemory, new_object: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of more than 2 GiB do, which take too long to try."""
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda one, size, at: pread(one, min(size, 7), at))
    monkeypatch.setattr(os, "pwrite", lambda one, data, at: pwrite(one, data[:7], at))
    path = new_object(bytes(100))
    memory.register("r", path.name, 0, 100)
    data = bytes(range(50))
    memory.write_all([write(20, 50, data)])
    assert read(memory, 20, 50) == data
    assert path.read_bytes() == bytes(20) + data + bytes(30)


def test_regions_come_and_go_while_they_are_used(
    memory: SharedMemory, new_object: Callable[[bytes], Path]
) -> None:
    """Every read gives the bytes of its region or says that there is none."""
    paths = [new_object(bytes([mark]) * 100) for mark in range(2)]
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # many more moments at which the other thread takes over

    def replace() -> None:
        while not stop.is_set():
            for path in paths:
                memory.unregister("r")
                memory.register("r", path.name, 0, 100)

    replacing = threading.Thread(target=replace)
    replacing.start()
    seen, refusals = set(), set()
    try:
        for _ in range(2_000):
            try:
                seen.add(read(memory, 0, 100))
            except InvalidRequest as error:
                refusals.add(error.got)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        replacing.join()
    assert seen
    assert seen <= {bytes(100), bytes([1]) * 100}
    assert refusals <= {"'r', which is not registered"}


@given(data=st.data())
def test_only_places_inside_are_read_and_written(
    data: st.DataObject, new_object: Callable[[bytes], Path]
) -> None:
    content = data.draw(st.binary(min_size=1, max_size=40))
    start = data.draw(st.integers(0, len(content) - 1))
    size = data.draw(st.integers(1, len(content) - start))
    offset = data.draw(st.integers(0, 50) | st.integers(2**63, 2**64 - 1))
    byte_size = data.draw(st.integers(0, 50))
    memory, path = SharedMemory(LIMIT), new_object(content)
    memory.register("r", path.name, start, size)
    try:
        if offset + byte_size > size:
            with pytest.raises(InvalidRequest):
                read(memory, offset, byte_size)
        else:
            first = start + offset
            assert read(memory, offset, byte_size) == content[first : first + byte_size]
            memory.write_all([write(offset, byte_size, b"!" * byte_size)])
            assert path.read_bytes() == (
                content[:first] + b"!" * byte_size + content[first + byte_size :]
            )
    finally:
        memory.close()
        path.unlink()
