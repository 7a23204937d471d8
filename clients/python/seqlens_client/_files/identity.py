"""Which job a destination belongs to, so that no other one goes on with it."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seqlens_client._descriptions import ModelDescription
from seqlens_client._errors import client_closed, invalid
from seqlens_client._files.request import FileRequest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The bytes of a file."""

    sha256: str
    lines: int


def fingerprint(path: Path, is_closed: Callable[[], bool]) -> Fingerprint:
    """Read the whole file: nothing less says that it is the same. About a second for a GB."""
    digest, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            if is_closed():
                raise client_closed()
    return Fingerprint(digest.hexdigest(), lines)


def identity(request: FileRequest, model: ModelDescription, source: Fingerprint) -> dict[str, Any]:
    """Everything on which the answers depend: the source's bytes, the model, and the form."""
    return {
        "source_sha256": source.sha256,
        "source_format": request.source_format,
        "destination_format": request.destination_format,
        "model": model.name,
        "version": model.version,
        "outputs": None if request.outputs is None else list(request.outputs),
        "labels": request.labels,
        "input_column": request.input_column,
        "output_column": request.output_column,
    }


@contextmanager
def claimed(request: FileRequest, job: dict[str, Any]) -> Iterator[BinaryIO]:
    """The file of rows, open for reading and writing, held against other processes.

    Raises ``InvalidInput`` if another process holds it, or if it belongs to another job.
    """
    descriptor = os.open(request.rows_path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise invalid(
                "destination", "a file that another process is writing", "one of its own"
            ) from None
        if request.restart:
            request.job_path.unlink(missing_ok=True)
            if request.rows_path != request.destination:
                request.destination.unlink(missing_ok=True)
            file.truncate()
        _claim(request, job, file)
        yield file


def _claim(request: FileRequest, job: dict[str, Any], file: BinaryIO) -> None:
    """Write down whose destination this is, or see that it is ours."""
    try:
        theirs = json.loads(request.job_path.read_bytes())
    except (FileNotFoundError, ValueError):
        theirs = None
    if theirs == job:
        return
    taken = os.fstat(file.fileno()).st_size > 0
    if request.rows_path != request.destination:
        taken |= request.destination.exists()
    if taken and not isinstance(theirs, dict):
        raise invalid(
            "destination", f"{request.destination.name}, which is there and of no known job",
            "another file, or restart",
        )  # fmt: skip
    if taken:
        field = next(name for name in job if theirs.get(name) != job[name])
        got = f"{request.destination.name} of another job: {field} {theirs.get(field)!r}"
        raise invalid("destination", got, f"{job[field]!r}, another file, or restart")
    unfinished = request.job_path.with_name(request.job_path.name + ".unfinished")
    unfinished.write_text(json.dumps(job, indent=2) + "\n")
    unfinished.replace(request.job_path)
