"""Proofs kept between starts, so that a restart repeats none of them."""

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from seqlens.attention.sites import AttentionReport
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.repository.verify import Proof
from seqlens.scheduling.cost import Measurement

_FORMAT = 5  # counts up when what an entry holds changes its meaning
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier load of the same files, libraries and settings found out."""

    device: str  # really used
    anatomy: ModelAnatomy
    proof: Proof
    measurements: tuple[Measurement, ...]
    attention: AttentionReport
    format: int = _FORMAT


class ProofCache:
    """A folder with one JSON file a model. Nothing about it is ever fatal.

    Several servers may share a folder: files are replaced whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()

    def get(self, key: str) -> Remembered | None:
        """What is kept under a key; None if there is nothing, or nothing that can be read."""
        path = self._path(key)
        try:
            entry = msgspec.convert(json.loads(path.read_bytes()), Remembered, str_keys=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            _log.warning("ignored a kept proof that cannot be read: %s: %s", path, error)
            return None
        return entry if entry.format == _FORMAT else None

    def put(self, key: str, entry: Remembered) -> None:
        """Keep an entry; where that fails, the next start proves again."""
        # The standard library writes infinite errors so that they come back infinite.
        text = json.dumps(msgspec.to_builtins(entry, str_keys=True), indent=1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(self._path(key), text)
        except OSError as error:
            _log.warning("proofs cannot be kept in %s: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _write(self, path: Path, text: str) -> None:
        number, name = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        try:
            with os.fdopen(number, "w") as file:
                file.write(text)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
