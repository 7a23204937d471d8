"""Regions of POSIX shared memory that clients have registered for their tensors.

A region belongs to a client that may do with it what it likes at any time: shrink it, or write
into it while it is read. So nothing is mapped, where a shrunken region would kill the process;
bytes are copied with ``pread`` and ``pwrite``, and only the copy is looked at.
"""

import os
import re
import stat
import threading
from dataclasses import dataclass

from seqlens.api.requests import SharedPlace
from seqlens.errors import InvalidRequest, RegionExists, RegionNotFound

FOLDER = "/dev/shm"  # where Linux keeps what shm_open opens
MAX_REGIONS = 1_024
# An optional slash, as shm_open wants it, and a plain file name.
_KEY = re.compile(r"/?[^/\x00]{1,254}")


@dataclass(frozen=True, slots=True)
class Region:
    """One region: its name here, its key at the operating system, and the part registered."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


class SharedMemory:
    """The regions by name. May be used from any thread.

    ``field`` is the tensor at fault in the errors that reading and writing raise.
    """

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        # A descriptor must not be closed, and its number given to another file, while it is used.
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a region known. Raises ``InvalidRequest`` and ``RegionExists``."""
        if not name:
            raise InvalidRequest("name", got="nothing", expected="a name for the region")
        with self._lock:
            if name in self._regions:
                raise RegionExists(f"shared memory region {name!r} is registered already")
            if len(self._regions) >= MAX_REGIONS:
                raise InvalidRequest(
                    "name", got="one region more", expected=f"at most {MAX_REGIONS} at a time"
                )
            descriptor = _open(key)
            try:
                _check_size(descriptor, key, offset, byte_size)
            except BaseException:
                os.close(descriptor)
                raise
            self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def unregister(self, name: str) -> None:
        """Forget a region, or all of them if ``name`` is empty. One that is not known is no error.

        The protocol's clients unregister before they register, to begin anew.
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

    def read(self, place: SharedPlace, field: str) -> bytes:
        """A copy of the bytes at a place. Raises ``InvalidRequest``."""
        with self._lock:
            region = self._holding(place, field)
            data = os.pread(region.descriptor, place.byte_size, region.offset + place.offset)
        if len(data) != place.byte_size:
            raise _shrunken(place, field)
        return data

    def write(self, place: SharedPlace, data: bytes, field: str) -> None:
        """Put bytes at a place that has room for them. Raises ``InvalidRequest``."""
        with self._lock:
            region = self._holding(place, field)
            if len(data) > place.byte_size:
                raise InvalidRequest(
                    f"{field}.parameters.shared_memory_byte_size",
                    got=f"{place.byte_size} bytes",
                    expected=f"at least the {len(data)} bytes of the answer",
                )
            start = region.offset + place.offset
            if os.fstat(region.descriptor).st_size < start + len(data):
                raise _shrunken(place, field)
            os.pwrite(region.descriptor, data, start)

    def close(self) -> None:
        """Forget all regions."""
        self.unregister("")

    def _holding(self, place: SharedPlace, field: str) -> Region:
        region = self._regions.get(place.region)
        if region is None:
            raise InvalidRequest(
                f"{field}.parameters.shared_memory_region",
                got=f"{place.region!r}, which is not registered",
                expected=", ".join(map(repr, self._regions)) or "a region, registered before",
            )
        if place.offset + place.byte_size > region.byte_size:
            raise InvalidRequest(
                f"{field}.parameters.shared_memory_byte_size",
                got=f"bytes {place.offset} to {place.offset + place.byte_size}",
                expected=f"at most the {region.byte_size} bytes of region {place.region!r}",
            )
        return region


def _open(key: str) -> int:
    if not _KEY.fullmatch(key) or key.strip("/") in (".", ".."):
        raise InvalidRequest(
            "key", got=repr(key), expected="the name of a shared memory object, such as '/tensors'"
        )
    try:
        # Not blocking: a pipe of that name would be waited for.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(f"{FOLDER}/{key.removeprefix('/')}", flags)
    except OSError as error:
        raise InvalidRequest(
            "key",
            got=f"{key!r}: {error.strerror}",
            expected="a shared memory object of this machine that the server may read and write",
        ) from error


def _check_size(descriptor: int, key: str, offset: int, byte_size: int) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest("key", got=f"{key!r}: not memory", expected="a shared memory object")
    if not 0 < byte_size <= status.st_size - offset:
        raise InvalidRequest(
            "byte_size",
            got=f"{byte_size} bytes at {offset}",
            expected=f"some of the {status.st_size} bytes of {key!r}",
        )


def _shrunken(place: SharedPlace, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}.parameters.shared_memory_region",
        got=f"{place.region!r}, which has become smaller",
        expected="a region of the size that was registered",
    )
