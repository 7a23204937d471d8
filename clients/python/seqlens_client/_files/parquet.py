"""Parquet in and out, where pyarrow is installed; it is imported only when asked for."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROWS_AT_ONCE = 1024
Columns = dict[str, Any]
OpenRows = Callable[[], Iterable[Columns]]  # to be gone over more than once


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise ImportError("Parquet needs pyarrow: pip install 'seqlens[data]'") from missing
    return pyarrow


def check_installed() -> None:
    """Raise ``ImportError`` without pyarrow."""
    _pyarrow()


def column_names(path: Path) -> list[str]:
    """Names of a file's columns."""
    names: list[str] = _pyarrow().parquet.read_schema(path).names
    return names


def row_count(path: Path) -> int:
    """Rows of a file, from its footer."""
    count: int = _pyarrow().parquet.read_metadata(path).num_rows
    return count


def count_filled(path: Path, column: str) -> int:
    """Rows in which a column is not null."""
    with _pyarrow().parquet.ParquetFile(path) as file:
        batches = file.iter_batches(ROWS_AT_ONCE, columns=[column])
        return sum(len(batch) - batch.column(0).null_count for batch in batches)


def read_columns(path: Path, column: str, skip: int) -> Iterator[Columns]:
    """Rows as mappings, all but the first ``skip``."""
    with _pyarrow().parquet.ParquetFile(path, pre_buffer=False) as file:
        groups: list[int] = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if not groups and skip >= rows:
                skip -= rows
            else:
                groups.append(group)
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups):
            rows_here = batch.to_pylist()
            yield from rows_here[skip:]
            skip = max(0, skip - len(rows_here))


def write(path: Path, open_rows: OpenRows, known: Path | None, replaced: Collection[str]) -> None:
    """Write rows, with the types of the file ``known`` for its columns but those ``replaced``.

    Types of other columns are found by going over the rows once before; a column whose values
    have no type in common is written as JSON texts.
    """
    arrow = _pyarrow()
    fields = arrow.parquet.read_schema(known) if known else ()
    fixed = {field.name: field for field in fields if field.name not in replaced}
    schema, as_json = _find_types(arrow, open_rows, fixed)
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(open_rows):
            rows = [_with_json(row, as_json) for row in batch]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _batches(open_rows: OpenRows) -> Iterator[list[Columns]]:
    rows = iter(open_rows())
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        yield batch


def _with_json(row: Columns, names: set[str]) -> Columns:
    texts = {name: json.dumps(row[name]) for name in names if row.get(name) is not None}
    return {**row, **texts}


def _find_types(arrow: Any, open_rows: OpenRows, fixed: Columns) -> tuple[Any, set[str]]:
    """The schema of all rows, and the columns that have to be texts of JSON."""
    found, as_json = dict(fixed), set[str]()
    for batch in _batches(open_rows):
        # In the order in which they first appear.
        names = {name: None for row in batch for name in row if name not in fixed}
        for name in (name for name in names if name not in as_json):
            try:
                field = arrow.field(name, _type(arrow, [row.get(name) for row in batch]))
                found[name] = _common(arrow, found.get(name, field), field)
            except (arrow.ArrowException, OverflowError, UnicodeError):
                found[name] = arrow.field(name, arrow.string())
                as_json.add(name)
    return arrow.schema([_typed(arrow, field) for field in found.values()]), as_json


def _type(arrow: Any, values: list[Any]) -> Any:
    """The type of all values. Raises if there is none, or none that a file can have."""
    # Not infer_type, which finds one for texts among lists.
    kind = arrow.array(values).type
    if not _can_be_written(arrow, kind):
        raise arrow.ArrowInvalid("a file cannot hold an object without entries")
    return kind


def _can_be_written(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_list(kind):
        return _can_be_written(arrow, kind.value_type)
    if not arrow.types.is_struct(kind):
        return True
    return len(kind) > 0 and all(_can_be_written(arrow, field.type) for field in kind)


def _common(arrow: Any, first: Any, second: Any) -> Any:
    schemas = [arrow.schema([first]), arrow.schema([second])]
    return arrow.unify_schemas(schemas, promote_options="permissive").field(0)


def _typed(arrow: Any, field: Any) -> Any:
    """A column that was never filled is one of texts."""
    return field.with_type(arrow.string()) if arrow.types.is_null(field.type) else field
