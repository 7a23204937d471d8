"""What a model's files hold, as one short text that changes when any of them does."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from seqlens.errors import ModelRejected
from seqlens.repository.folder import FoundModel

# Files of a model that change nothing in what its graph computes.
_SIDE_FILES = ("model.yaml", "config.pbtxt", "labels.txt", "tokenizer.json")


def graph_content(model: FoundModel, path: Path) -> str:
    """Hash of a version's model file and of whatever may hold its weights.

    In a version's own folder every file is read, because exporters keep weights there under any
    name. Of files that merely lie beside the model's, name, size and time are taken. Raises
    ``ModelRejected`` for files that cannot be read.
    """
    try:
        if path.parent != model.folder:
            return combined(*map(_hash, _files_below(path.parent)))
        others = (f for f in _files(path.parent) if f != path and f.name not in _SIDE_FILES)
        return combined(_hash(path), *map(_stamp, others))
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error


def whole_content(model: FoundModel, graph: str) -> str:
    """Hash of a version with all that lies in its model's folder: labels, tokenizer, ...

    ``graph`` is its ``graph_content``. Raises ``ModelRejected`` as that does.
    """
    try:
        return combined(graph, *map(_stamp, _files(model.folder)))
    except OSError as error:
        raise ModelRejected(f"{model.name} cannot be read: {error.strerror}") from error


def proof_key(graph: str, versions: Mapping[str, str], circumstances: object) -> str:
    """Hash of all that could change a proof: files, libraries, processor and circumstances.

    ``graph`` is a ``graph_content``, ``versions`` are a backend's; ``circumstances`` are plain
    values, such as the device and the limits, told apart by their ``repr``.
    """
    own = {name: metadata.version(name) for name in ("seqlens", "numpy")}
    libraries = json.dumps({**versions, **own}, sort_keys=True)
    return combined(graph, libraries, _processor(), repr(circumstances))


def combined(*parts: str) -> str:
    """One hash of several texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(e for e in folder.iterdir() if e.is_file() and not e.name.startswith("."))


def _files_below(folder: Path) -> Iterable[Path]:
    return sorted(entry for entry in folder.rglob("*") if entry.is_file())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


@cache
def _processor() -> str:
    """Kernels, and with them rounding and times, are chosen by the processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = sorted({line for line in lines if line.startswith(("model name", "CPU part"))})
    return f"{platform.system()} {platform.machine()} {kinds or platform.processor()}"
