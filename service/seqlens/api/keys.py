"""Keys that requests have to carry, as ``authorization: Bearer KEY`` on both wires."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes

from seqlens.api.watched import Watched
from seqlens.errors import NotAuthenticated
from seqlens.settings import InvalidSetting

MAX_FILE_BYTES = 1 << 20
# Heads of requests, in which a key travels, have bounds of their own.
MAX_KEY_CHARACTERS = 4_096


class Keys:
    """The keys of a file. Raises ``InvalidSetting`` for a file that cannot be used.

    Not even in memory are they kept as they are.
    """

    def __init__(self, path: Path) -> None:
        self._secret = token_bytes(32)
        self._known = Watched([path], lambda: frozenset(map(self._digest, read_keys(path))))

    def check(self, authorization: Sequence[str | bytes]) -> None:
        """Let a request pass by the values of all its ``authorization`` headers.

        Raises ``NotAuthenticated``, which never repeats what came.
        """
        key = _key_in(authorization)
        if self._digest(key) not in self._known.current():
            raise _refusal("a key that is not known")

    def _digest(self, key: bytes) -> bytes:
        # The time that a look-up takes tells nothing of the keys: what is compared are digests
        # that nobody outside this process can compute.
        return blake2b(key, key=self._secret).digest()


def read_keys(path: Path) -> list[bytes]:
    """The keys of a file, one a line; lines that are empty or begin with ``#`` are none.

    Raises ``InvalidSetting``, which names the line but never shows it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidSetting(f"security.keys: {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidSetting(f"security.keys: {path}: expected at most {MAX_FILE_BYTES} bytes")
    lines = [line.strip() for line in data.split(b"\n")]
    keys = [(number, line) for number, line in enumerate(lines, 1) if line and line[:1] != b"#"]
    for number, key in keys:
        if len(key) > MAX_KEY_CHARACTERS or not all(0x21 <= byte <= 0x7E for byte in key):
            raise InvalidSetting(
                f"security.keys: {path}: line {number}: expected printable ASCII characters "
                f"without spaces, at most {MAX_KEY_CHARACTERS}"
            )
    if not keys:
        raise InvalidSetting(f"security.keys: {path}: expected at least one key")
    return [key for _, key in keys]


def _key_in(authorization: Sequence[str | bytes]) -> bytes:
    if len(authorization) != 1:
        raise _refusal("several" if authorization else "nothing")
    (value,) = authorization
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    scheme, _, key = data.partition(b" ")
    if scheme.lower() != b"bearer":
        raise _refusal("another scheme")
    return key.strip(b" ")


def _refusal(got: str) -> NotAuthenticated:
    return NotAuthenticated(field="authorization", got=got, expected="'Bearer KEY'")
