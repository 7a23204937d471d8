"""Rows of a destination: how one is written, and how many whole ones a file has."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from seqlens_client._errors import invalid
from seqlens_client._rows import ERROR


@dataclass(frozen=True, slots=True)
class Written:
    """What a file has of whole rows; what follows them was torn when its writer was killed."""

    rows: int
    errors: int  # rows among them with an error
    size: int  # bytes


class AnswerForm(Protocol):
    """A file to whose end rows can be added."""

    def head(self) -> bytes:
        """What comes before the first row."""

    def row(self, columns: Mapping[str, Any]) -> bytes:
        """One row, with the end of its line."""

    def written(self, file: BinaryIO) -> Written:
        """What is there. Raises ``InvalidInput`` for lines before the last that are no rows."""


class JsonLines:
    """An object on each line."""

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def row(self, columns: Mapping[str, Any]) -> bytes:
        """One object."""
        return _json(columns) + b"\n"

    def written(self, file: BinaryIO) -> Written:
        """Whole lines, each of which is an object with an entry for its error."""
        rows = errors = size = 0
        for line in _whole_lines(file):
            try:
                errors += json.loads(line)[ERROR] is not None
            except (ValueError, KeyError, TypeError):
                raise _not_ours(rows + 1) from None
            rows, size = rows + 1, size + len(line)
        return Written(rows, errors, size)


class Csv:
    """A header, and a record for each row; what is neither text nor number is JSON in its cell."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = list(header)

    def head(self) -> bytes:
        """The names of the columns."""
        return _record(self._header)

    def row(self, columns: Mapping[str, Any]) -> bytes:
        """One record. Columns that the header does not have are left out."""
        return _record([_cell(columns.get(name)) for name in self._header])

    def written(self, file: BinaryIO) -> Written:
        """Whole records: those that are closed by the end of a line outside of quotes."""
        rows = errors = size = 0
        lines = _Counted(file)
        # Strict: a quoted cell that is never closed, as in a torn record, is an error.
        records = csv.reader(lines, strict=True)
        try:
            for number, record in enumerate(records):
                if not lines.whole:
                    break
                if (number == 0 and record != self._header) or len(record) != len(self._header):
                    raise _not_ours(number + 1)
                rows, size = number, lines.size
                errors += number > 0 and record[self._header.index(ERROR)] != ""
        except csv.Error:
            pass
        return Written(rows, errors, size)


class _Counted:
    """Lines of a file as texts, with the bytes that were read so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.whole = file, 0, True

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.size += len(line)
            self.whole = line.endswith(b"\n")
            yield line.decode(errors="surrogateescape")


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def read_answers(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of JSON lines."""
    with path.open("rb") as file:
        for line in _whole_lines(file):
            yield json.loads(line)


def _not_ours(row: int) -> Exception:
    return invalid("destination", f"row {row} of another form", "rows of this job; or restart")


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can name
        return json.dumps(value, separators=(",", ":"), default=str).encode()


def _record(cells: Sequence[str]) -> bytes:
    # With this end of a line, and no other, both of its characters are quoted inside of cells.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode(errors="surrogateescape") + b"\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value).decode()
