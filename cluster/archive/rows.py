"""Rows of the archive for a table or a file: chosen columns of the traces that a filter keeps.

    archive -> scan -> tables of some groups each, in bounded memory

A group is met once, also while the run writes or the archive is compacted.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.archive.columns import column_types
from cluster.archive.where import Where
from wire.archive.archive import read_tables
from wire.archive.parquet_files import parquet_files
from wire.errors import ConfigError
from wire.nearest import nearest

_JSON_TYPES = {pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()}


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
    stored = dict.fromkeys("token_ids" if name == "num_tokens" else name for name in needed)
    for table in read_tables(directory, list(stored)):
        if "num_tokens" in needed:
            lengths = pc.cast(pc.list_value_length(table["token_ids"]), pa.int64())
            table = table.append_column("num_tokens", lengths)
        kept = table if where.expression is None else table.filter(where.expression)
        if kept.num_rows:
            yield kept.select(list(columns))
        progress(table.num_rows)


def count_rows(directory: Path) -> int:
    """Rows in the archive's Parquet files, for a progress bar. Raises ArchiveError."""
    total = 0
    for path in parquet_files(directory):
        # merged meanwhile; a damaged file is named when it is read
        with contextlib.suppress(OSError, pa.ArrowException):
            total += pq.read_metadata(path).num_rows
    return total


def page(tables: Iterator[pa.Table], offset: int, limit: int) -> Iterator[pa.Table]:
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
    types = column_types()
    for name in names:
        if name not in types:
            raise ConfigError(f"there is no column {name!r}; {nearest(name, list(types))}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--columns {text!r} must name columns, each once; such as label,reward")
    return names


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON has them: a map of names to numbers is an object, a date its ISO text."""
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    plain = all(map(_is_json, table.schema.types))
    return rows if plain else [{name: _plain(row[name]) for name in row} for row in rows]


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
