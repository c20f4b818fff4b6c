"""Rows of the archive for a table or a file: chosen columns of the traces that a filter keeps.

    archive -> scan -> tables of some groups each, in bounded memory

A group is met once, also while the run writes or the archive is compacted.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.archive.columns import column_type, column_types, part_of
from cluster.archive.where import Where
from wire.archive.archive import read_tables
from wire.archive.index import BROWSE_COLUMNS, browse
from wire.archive.parquet_files import parquet_files
from wire.archive.trace_rows import FILE_SCHEMA
from wire.errors import ConfigError
from wire.nearest import nearest
from wire.remote_path import arrow_source

_ROWS_AT_ONCE = 256
_NUMBERS = {pa.int32(), pa.int64(), pa.float32(), pa.float64()}
_JSON_TYPES = {*_NUMBERS, pa.string(), pa.bool_()}


def scan(
    directory: Path,
    columns: Sequence[str],
    where: Where,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[pa.Table]:
    """The rows that ``where`` keeps, with ``columns``, in the order of writing.

    ``progress`` is called with numbers of rows that were read, kept or not. Raises ArchiveError.
    """
    needed = dict.fromkeys([*columns, *sorted(where.columns)])
    for table in read_tables(directory, list(dict.fromkeys(map(_stored, needed)))):
        read = table.num_rows
        for name in needed:
            if name not in table.column_names:
                table = table.append_column(name, _derived(table, name))
        kept = table if where.expression is None else table.filter(where.expression)
        if kept.num_rows:
            yield kept.select(list(columns))
        progress(read)


def _stored(name: str) -> str:
    """The column of the files that a column is made of."""
    if part_of(name) is not None:
        return "reward_parts"
    return "token_ids" if name == "num_tokens" else name


def _derived(table: pa.Table, name: str) -> pa.ChunkedArray:
    if (part := part_of(name)) is not None:
        return pc.map_lookup(table["reward_parts"], part, "first")
    return pc.cast(pc.list_value_length(table["token_ids"]), pa.int32())


def as_in_files(table: pa.Table) -> pa.Table:
    """Rows with the types that Parquet files have: other tools open no maps."""
    kinds = {field.name: field.type for field in FILE_SCHEMA}
    fields = [field.with_type(kinds.get(field.name, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def count_rows(directory: Path) -> int:
    """Rows in the archive's Parquet files, for a progress bar. Raises ArchiveError."""
    total = 0
    for path in parquet_files(directory):
        # merged meanwhile; a damaged file is named when it is read
        with contextlib.suppress(OSError, pa.ArrowException):
            total += pq.read_metadata(arrow_source(path)).num_rows
    return total


def page(
    directory: Path,
    columns: Sequence[str],
    where: Where,
    *,
    offset: int,
    limit: int,
    newest_first: bool = False,
) -> pa.Table:
    """The rows that ``where`` keeps, with ``columns``: at most ``limit`` from row ``offset`` on.

    By the archive's index where it has the columns; else the rows up to there are read. Raises
    ConfigError for the newest first by a column that the index has not, and ArchiveError.
    """
    outside = sorted({*columns, *where.columns} - set(BROWSE_COLUMNS))
    if not outside:
        return browse(
            directory,
            columns,
            where.expression,
            offset=offset,
            limit=limit,
            newest_first=newest_first,
        )
    if newest_first:
        raise ConfigError(
            f"--newest goes by the index, which has no {', '.join(outside)}; it has "
            f"{', '.join(BROWSE_COLUMNS)}"
        )
    empty = pa.schema([(name, column_type(name)) for name in columns]).empty_table()
    return pa.concat_tables([empty, *first_rows(scan(directory, columns, where), limit, offset)])


def first_rows(tables: Iterator[pa.Table], limit: int, offset: int = 0) -> Iterator[pa.Table]:
    """At most ``limit`` rows of ``tables``, from row ``offset`` on; reads no further."""
    for table in tables:
        part = table.slice(offset, limit)
        offset = max(0, offset - table.num_rows)
        limit -= part.num_rows
        if part.num_rows:
            yield part
        if limit <= 0:
            return


def named_columns(text: str) -> list[str]:
    """Columns of a list such as ``sample_id,label,reward``. Raises ConfigError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if column_type(name) is None:
            raise ConfigError(f"there is no column {name!r}; {nearest(name, list(column_types()))}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--columns {text!r} must name columns, each once; such as label,reward")
    return names


def json_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """``plain_rows`` a few at a time: as Python's numbers, tokens need twenty times their room."""
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        yield from plain_rows(table.slice(start, _ROWS_AT_ONCE))


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON has them: a map of names to numbers is an object, a date its ISO text."""
    numbers = [field.name for field in table.schema if _is_number_list(field.type)]
    rows: list[dict[str, Any]] = table.drop_columns(numbers).to_pylist(maps_as_pydicts="strict")
    if not all(map(_is_json, table.schema.types)):
        rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
    lists = {name: _lists(table[name]) for name in numbers}
    if numbers:  # in the order of the columns
        rows = [
            {name: lists[name][at] if name in lists else row[name] for name in table.column_names}
            for at, row in enumerate(rows or [{}] * table.num_rows)
        ]
    return rows


def _is_number_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and kind.value_type in _NUMBERS)


def _lists(column: pa.ChunkedArray) -> list[list[Any] | None]:
    """Lists of numbers, at once: one value after another takes five times as long."""
    lists: list[list[Any] | None] = []
    for chunk in column.chunks:
        values = chunk.flatten()
        if values.null_count:
            lists += chunk.to_pylist()
            continue
        numbers = values.to_numpy().tolist()
        lengths = pc.list_value_length(chunk).to_pylist()
        ends = itertools.accumulate(length or 0 for length in lengths)
        lists += [
            None if length is None else numbers[end - length : end]
            for length, end in zip(lengths, ends, strict=True)
        ]
    return lists


def _is_json(kind: pa.DataType) -> bool:
    """Whether Python has its values as JSON has them."""
    nested = [kind.field(index).type for index in range(kind.num_fields)]
    return all(map(_is_json, nested)) if nested else kind in _JSON_TYPES


def _plain(value: Any) -> Any:
    """What a query may give beside the columns' own types."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)  # a sum of whole numbers
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
