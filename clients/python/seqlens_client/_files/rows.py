"""Rows of a source file, one by one, each with its sequence or with what is wrong with it."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from seqlens_client._errors import InvalidInput, invalid
from seqlens_client._files import parquet
from seqlens_client._files.request import FileFormat
from seqlens_client._sequences import Prepared, prepare

# One cell may hold the features of a long sequence; Python's own bound is 128 KiB.
LARGEST_CELL = 2**27


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the source."""

    columns: Mapping[str, Any]  # as they stand there
    sequence: Prepared | InvalidInput
    size: int  # bytes, roughly


def read_rows(path: Path, file_format: FileFormat, column: str, skip: int) -> Iterator[Row]:
    """All rows but the first ``skip``, read as they are asked for.

    Raises ``InvalidInput`` for a file that has no rows at all: without the column, or broken.
    """
    if file_format == "jsonl":
        yield from _read_jsonl(path, column, skip)
    elif file_format == "csv":
        yield from _read_csv(path, column, skip)
    else:
        for columns in parquet.read_columns(path, column, skip):
            yield _row(columns, columns[column], size=0)


def _row(columns: Mapping[str, Any], value: Any, size: int) -> Row:
    try:
        sequence = _sequence(value)
    except InvalidInput as error:
        return Row(columns, error, size)
    return Row(columns, sequence, size + sequence.byte_count)


def _sequence(value: Any) -> Prepared:
    """A text, numbers, or several inputs by name."""
    if isinstance(value, str | list | dict):
        return prepare(value)
    expected = "a text, a list of numbers, or an object with an entry for each input"
    raise invalid("sequence", json.dumps(value, default=repr), expected)


# --- JSON lines


def _read_jsonl(path: Path, column: str, skip: int) -> Iterator[Row]:
    with path.open("rb") as file:
        lines = (line for line in file if not line.isspace())
        for number, line in enumerate(lines):
            if number >= skip:
                yield _json_row(line, column)


def _json_row(line: bytes, column: str) -> Row:
    try:
        value = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        text = line.decode(errors="backslashreplace").rstrip("\r\n")
        return Row({column: text}, invalid("line", str(error), "JSON"), len(line))
    if not isinstance(value, dict):
        return _row({column: value}, value, len(line))
    if column not in value:
        missing = invalid("line", f"only {', '.join(value) or 'nothing'}", repr(column))
        return Row(value, missing, len(line))
    return _row(value, value[column], len(line))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# --- comma-separated values


def _read_csv(path: Path, column: str, skip: int) -> Iterator[Row]:
    csv.field_size_limit(max(LARGEST_CELL, csv.field_size_limit()))
    # Bytes that are no text come back out as they went in; their own row is refused.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = (record for record in csv.reader(file) if record)
        header = next(records, [])
        check_column(column, header)
        try:
            for number, record in enumerate(records):
                if number >= skip:
                    yield _csv_row(header, record, column)
        except csv.Error as error:
            raise invalid("source", str(error), "CSV") from error


def _csv_row(header: list[str], record: list[str], column: str) -> Row:
    columns = dict(zip(header, record, strict=False))
    size = sum(map(len, record))
    if len(record) != len(header):
        return Row(columns, invalid("line", f"{len(record)} cells", f"{len(header)}"), size)
    return _row(columns, _cell_value(columns[column]), size)


def _cell_value(cell: str) -> Any:
    """Numbers if the cell is a whole JSON array or object, else the text that it is."""
    if not cell.startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return cell


def check_column(column: str, header: list[str]) -> None:
    """Raise ``InvalidInput`` if the source has no such column, or two of one name."""
    if column not in header:
        got = f"only {', '.join(header)}" if header else "an empty file"
        raise invalid("input_column", got, repr(column))
    if repeated := [name for name in header if header.count(name) > 1]:
        raise invalid("source", f"two columns {repeated[0]!r}", "a name of its own for each")


def header_of(path: Path, file_format: FileFormat, column: str) -> list[str]:
    """Columns of the source that are known before its first row is read."""
    if file_format == "parquet":
        header = parquet.column_names(path)
    elif file_format == "csv":
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = next((record for record in csv.reader(file) if record), [])
    else:
        return [column]
    check_column(column, header)
    return header
