"""What is asked of a file, and where its parts lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from seqlens_client._errors import invalid
from seqlens_client._files import parquet

FileFormat = Literal["jsonl", "csv", "parquet"]
_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One run of a model over a file; the fields are the arguments of ``process_file``."""

    model: str
    source: Path
    destination: Path
    source_format: FileFormat
    destination_format: FileFormat
    input_column: str
    output_column: str
    version: str
    outputs: Sequence[str] | None
    labels: bool
    timeout: float | None  # seconds, for each row at the server
    priority: int
    window: int
    stop_at_error: bool
    restart: bool
    progress: bool

    def __post_init__(self) -> None:
        _check_regular("source", self.source)
        _check_regular("destination", self.destination)

    @property
    def rows_path(self) -> Path:
        """Where rows are added as they are answered: Parquet cannot be added to and comes last."""
        if self.destination_format == "parquet":
            return _beside(self.destination, ".rows")
        return self.destination

    @property
    def job_path(self) -> Path:
        """Where it is written down which job the destination belongs to."""
        return _beside(self.destination, ".job")

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do, as far as a look at the files tells."""
        return self.rows_path != self.destination and self.destination.exists()

    @property
    def unfinished_path(self) -> Path:
        """A file that takes its own name once it is whole."""
        return _beside(self.destination, ".unfinished")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def default_destination(source: Path) -> Path:
    """``texts.jsonl`` is answered in ``texts.answers.jsonl``."""
    _check_regular("source", source)
    return source.with_name(f"{source.stem}.answers{source.suffix}")


def _check_regular(field: str, path: Path) -> None:
    """Raise ``InvalidInput`` for pipes, devices and folders: both files are read more than once."""
    if path.exists() and not path.is_file():
        raise invalid(field, f"{path}, which is no regular file", "a file")


def format_of(path: Path, given: FileFormat | None) -> FileFormat:
    """The format that a path's suffix tells, unless one is given.

    Raises ``InvalidInput`` for none that is known, ``ImportError`` for one that needs more than
    is installed.
    """
    if given is not None and given not in get_args(FileFormat):
        raise invalid("file_format", repr(given), "jsonl, csv or parquet")
    found = given or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        expected = f"a suffix of {', '.join(_SUFFIXES)}, or file_format"
        raise invalid("file_format", path.name, expected)
    if found == "parquet":
        parquet.check_installed()
    return found
