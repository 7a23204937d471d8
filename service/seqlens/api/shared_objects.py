"""Objects of POSIX shared memory at the operating system, opened by the key that a client gives.

Whatever lies under a key may be anything: only plain memory of the size it is said to have is
taken.
"""

import os
import re
import stat

from seqlens.errors import InvalidRequest

FOLDER = "/dev/shm"  # where Linux keeps what shm_open opens
# An optional slash, as shm_open wants it, and a plain file name.
_KEY = re.compile(r"/?[^/\x00]{1,255}")


def open_object(key: str) -> int:
    """A descriptor of the object, to read and write. Raises ``InvalidRequest``."""
    if not _KEY.fullmatch(key) or key.removeprefix("/") in (".", ".."):
        raise InvalidRequest(
            "key", got=repr(key), expected="the name of a shared memory object, such as '/tensors'"
        )
    # Not blocking: a pipe of that name would be waited for.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(f"{FOLDER}/{key.removeprefix('/')}", flags)
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise InvalidRequest(
            "key",
            got=f"{key!r}: {reason}",
            expected="a shared memory object of this machine that the server may read and write",
        ) from error


def check_part(descriptor: int, key: str, offset: int, byte_size: int) -> None:
    """Refuse what is not memory, and a part that it does not have. Raises ``InvalidRequest``."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest("key", got=f"{key!r}: not memory", expected="a shared memory object")
    if offset < 0:
        raise InvalidRequest("offset", got=str(offset), expected="at least 0")
    if not 0 < byte_size <= status.st_size - offset:
        raise InvalidRequest(
            "byte_size",
            got=f"{byte_size} bytes at {offset}",
            expected=f"some of the {status.st_size} bytes of {key!r}",
        )
