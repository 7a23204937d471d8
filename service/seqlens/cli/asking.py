"""What commands that ask a running server are told on their command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

FileFormat = Literal["jsonl", "csv", "parquet"]


@dataclass(frozen=True, slots=True)
class Connection:
    """Which server, and how it and its client know each other.

    Parameters
    ----------
    target
        Address of the server, HOST:PORT.
    tls
        Speak TLS, and trust the authorities that gRPC brings along.
    ca
        File of the authorities to trust instead; speaks TLS.
    certificate
        File of the client's own certificate, for servers that ask for one.
    private_key
        File of its key.
    token
        Token that the server asks for; better given as SEQLENS_TOKEN, which others cannot see.
    """

    target: str = "127.0.0.1:8001"
    tls: Annotated[bool, Parameter(negative=())] = False
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    token: str | None = None


LOCAL_SERVER = Connection()


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


@dataclass(frozen=True, slots=True)
class Showing:
    """Which version of a model is looked into, and how what was seen is shown.

    Parameters
    ----------
    json
        Print JSON on a terminal, too.
    html
        Write a page that shows everything into this file, instead of printing.
    version
        Version of the model; the server chooses by default.
    timeout
        Seconds for the answer; 30 by default.
    """

    json: Annotated[bool, Parameter(negative=())] = False
    html: Path | None = None
    version: str = ""
    timeout: float | None = None


AS_USUAL = Showing()


@dataclass(frozen=True, slots=True)
class Looking:
    """Which model is looked into, at which texts, and how what was seen is shown."""

    model: str
    texts: tuple[str, ...]
    showing: Showing


@dataclass(frozen=True, slots=True)
class AttentionQuestion:
    """Which attention weights."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    sites: tuple[str, ...]
    query: str | int | None  # text of a token or a position; None: the last
    top_k: int | None
    rollout: bool


@dataclass(frozen=True, slots=True)
class InfluenceQuestion:
    """Which influence."""

    measures: tuple[Literal["occlusion", "jacobian"], ...]
    about: str  # what of the answer
    output_positions: tuple[int, ...]
    exact: bool
    by_distance: bool


@dataclass(frozen=True, slots=True)
class GateQuestion:
    """Which gates."""

    layers: tuple[int, ...]
    full: bool
