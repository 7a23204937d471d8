"""What ``seqlens infer`` is told on its command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FileFormat = Literal["jsonl", "csv", "parquet"]


@dataclass(frozen=True, slots=True)
class Connection:
    """Which server, and how it and its client know each other."""

    target: str
    tls: bool
    ca: Path | None
    certificate: Path | None
    private_key: Path | None
    token: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of which model, and how answers are shown."""

    model: str
    version: str
    timeout: float | None  # seconds, for each sequence
    priority: int
    labels: bool
    json: bool


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """Where sequences come from and answers go to."""

    source: Path
    destination: Path | None
    file_format: FileFormat | None
    input_column: str
    output_column: str
    restart: bool
