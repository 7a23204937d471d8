"""Regions of POSIX shared memory that clients have registered for their tensors.

A region belongs to a client that may do with it what it likes at any time: shrink it, or write
into it while it is read. So nothing is mapped, where a shrunken region would kill the process;
bytes are copied with ``pread`` and ``pwrite``, and only the copy is looked at.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.requests import SharedPlace
from seqlens.api.shared_objects import check_part, open_object
from seqlens.errors import InvalidRequest, MessageTooLarge, RegionExists, RegionNotFound

# Each holds a file open, of which a process may have 1,024 by default.
MAX_REGIONS = 512
# So many names of regions are told to who asks for another.
_NAMES_TOLD = 8


@dataclass(frozen=True, slots=True)
class Region:
    """One region: its name here, its key at the operating system, and the part registered."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class SharedWrite:
    """Bytes to put at a place; ``field`` is the tensor they belong to."""

    place: SharedPlace
    data: bytes
    field: str


class SharedMemory:
    """The regions by name. May be used from any thread.

    At most ``max_read_bytes`` are copied for one request, as many as one message may hold.
    ``field`` is the tensor at fault in the errors that reading and writing raise.
    """

    def __init__(self, max_read_bytes: int) -> None:
        self._max_read_bytes = max_read_bytes
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a region known. Raises ``InvalidRequest`` and ``RegionExists``."""
        if not name:
            raise InvalidRequest("name", got="nothing", expected="a name for the region")
        check_tensor_names("name", [name])
        with self._lock:
            if name in self._regions:
                raise RegionExists(f"shared memory region {name!r} is registered already")
            if len(self._regions) >= MAX_REGIONS:
                raise InvalidRequest(
                    "name", got="one region more", expected=f"at most {MAX_REGIONS} at a time"
                )
            descriptor = open_object(key)
            try:
                check_part(descriptor, key, offset, byte_size)
            except BaseException:
                os.close(descriptor)
                raise
            self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them if ``name`` is empty. One that is not known is no error.

        The protocol's clients unregister before they register, to begin anew. What is being
        read or written is read or written to its end.
        """
        with self._lock:
            for one in [name] if name else list(self._regions):
                region = self._regions.pop(one, None)
                if region is not None:
                    os.close(region.descriptor)

    def status(self, name: str) -> list[Region]:
        """One region, or all of them if ``name`` is empty. Raises ``RegionNotFound``."""
        with self._lock:
            if name and name not in self._regions:
                raise RegionNotFound(f"no shared memory region {name!r} is registered")
            return [self._regions[name]] if name else list(self._regions.values())

    def check(self, place: SharedPlace, field: str) -> None:
        """Raise ``InvalidRequest`` unless a registered region has such a place.

        For outputs: better told before the model runs than after.
        """
        with self._lock:
            self._holding(place, field)

    def read_all(self, places: Sequence[tuple[SharedPlace, str]]) -> list[bytes]:
        """Copies of the bytes at the places of one request, each with its field.

        Raises ``InvalidRequest``.
        """
        size = sum(place.byte_size for place, _ in places)
        if size > self._max_read_bytes:
            raise MessageTooLarge(
                "inputs",
                got=f"{size} bytes in shared memory",
                expected=f"at most {self._max_read_bytes} (limits.max_message_bytes)",
            )
        return [self._read(place, field) for place, field in places]

    def write_all(self, writes: Sequence[SharedWrite]) -> None:
        """Put the outputs of one answer at their places, or none if one has no room there.

        A place may be larger than what is put there; its rest stays as it is. Raises
        ``InvalidRequest``.
        """
        if not writes:
            return
        with ExitStack() as stack:
            opened = [stack.enter_context(self._room_for(write, write.field)) for write in writes]
            for write, (descriptor, start) in zip(writes, opened, strict=True):
                _write_fully(descriptor, write, start)

    def close(self) -> None:
        """Forget all regions."""
        self.unregister("")

    def _read(self, place: SharedPlace, field: str) -> bytes:
        with self._opened(place, field) as (descriptor, start):
            data = _read_fully(descriptor, place.byte_size, start)
        if len(data) != place.byte_size:
            raise _shrunken(place, field)
        return data

    @contextmanager
    def _room_for(self, write: SharedWrite, field: str) -> Iterator[tuple[int, int]]:
        place, size = write.place, len(write.data)
        if size > place.byte_size:
            raise InvalidRequest(
                f"{field}.parameters.shared_memory_byte_size",
                got=f"{place.byte_size} bytes",
                expected=f"at least the {size} bytes of the answer",
            )
        with self._opened(place, field) as (descriptor, start):
            if os.fstat(descriptor).st_size < start + size:
                raise _shrunken(place, field)
            yield descriptor, start

    @contextmanager
    def _opened(self, place: SharedPlace, field: str) -> Iterator[tuple[int, int]]:
        """The file behind a place and where in it the place begins.

        A descriptor of its own: the region may be unregistered meanwhile, and its number given
        to another file, and no large copy holds up those who wait for the lock.
        """
        with self._lock:
            region = self._holding(place, field)
            descriptor = os.dup(region.descriptor)
        try:
            yield descriptor, region.offset + place.offset
        finally:
            os.close(descriptor)

    def _holding(self, place: SharedPlace, field: str) -> Region:
        region = self._regions.get(place.region)
        if region is None:
            raise InvalidRequest(
                f"{field}.parameters.shared_memory_region",
                got=f"{place.region!r}, which is not registered",
                expected=self._some_names() or "a region, registered before",
            )
        if place.offset + place.byte_size > region.byte_size:
            raise InvalidRequest(
                f"{field}.parameters.shared_memory_byte_size",
                got=f"bytes {place.offset} to {place.offset + place.byte_size}",
                expected=f"at most the {region.byte_size} bytes of region {place.region!r}",
            )
        return region

    def _some_names(self) -> str:
        names = [repr(name) for name in list(self._regions)[:_NAMES_TOLD]]
        return ", ".join(names) + (", ..." if len(self._regions) > _NAMES_TOLD else "")


def _read_fully(descriptor: int, size: int, start: int) -> bytes:
    """As many bytes as there are; one call reads no more than 2 GiB, and may read less."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)


def _write_fully(descriptor: int, write: SharedWrite, start: int) -> None:
    rest = memoryview(write.data)
    try:
        while rest:
            done = os.pwrite(descriptor, rest, start)
            start, rest = start + done, rest[done:]
    except OSError as error:
        raise InvalidRequest(
            f"{write.field}.parameters.shared_memory_region",
            got=f"{write.place.region!r}: {error.strerror}",
            expected="memory that can be written to",
        ) from error


def _shrunken(place: SharedPlace, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}.parameters.shared_memory_region",
        got=f"{place.region!r}, which has become smaller",
        expected="a region of the size that was registered",
    )
