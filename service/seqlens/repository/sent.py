"""What a client sends to be loaded: a configuration, and maybe the model's files as well."""

import re
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from seqlens.errors import ModelRejected
from seqlens.repository.folder import FoundModel, check_name, list_models
from seqlens_wire.pb import model_config_pb2 as pb

MAX_FILES = 256
_PATH = re.compile(r"[1-9][0-9]{0,17}/[^/\\\x00]+")
_LONGEST_NAME = 255  # bytes, as file systems have it


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file of a model; ``path`` is ``<version>/<name>``. Raises ``ValueError`` for others."""

    path: str
    data: bytes

    def __post_init__(self) -> None:
        name = self.path.partition("/")[2]
        if not _PATH.fullmatch(self.path) or name in (".", ".."):
            raise ValueError("expected <version>/<name>: a positive number, and a plain file name")
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"expected a name of at most {_LONGEST_NAME} bytes")


@dataclass(frozen=True, slots=True)
class Sent:
    """What came with a load request. With files, the model's own folder is not looked at."""

    config: pb.ModelConfig | None = None  # in the place of config.pbtxt
    files: tuple[SentFile, ...] = ()


class SentFolder:
    """A private folder of files that were sent, until ``remove``."""

    def __init__(self, name: str, files: Iterable[SentFile], suffixes: Collection[str]) -> None:
        """Write the files of the model ``name``; ``suffixes`` as for ``list_models``.

        Raises ``ModelRejected`` for a name that no model may have, or if there is no room.
        """
        check_name(name)
        self._temporary = tempfile.TemporaryDirectory(prefix="seqlens-sent-")
        self._path = Path(self._temporary.name)
        try:
            _write(self._path / name, files)
            self.model = self._found(name, suffixes)
        except BaseException:
            self.remove()
            raise

    def holds(self, path: Path) -> bool:
        """Whether a file lies in this folder."""
        return path.is_relative_to(self._path)

    def remove(self) -> None:
        """Delete the files."""
        self._temporary.cleanup()

    def _found(self, name: str, suffixes: Collection[str]) -> FoundModel:
        found = list_models(self._path, suffixes).model(name)
        assert found is not None  # its folder has just been made
        return found


def _write(folder: Path, files: Iterable[SentFile]) -> None:
    try:
        for file in files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.data)
    except OSError as error:
        raise ModelRejected(f"the files cannot be kept: {error.strerror}") from error
