"""Parquet files of the trace archive: their names, their listing, and how rows get in and out.

    tables -> write_parquet -> traces/attempt=000-step=000040.parquet -> row_groups -> tables

A file is never touched again once it has its name. Its footer's metadata hold the version of the
schema; a caller may add keys of its own.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from wire.archive.trace_rows import SCHEMA, SCHEMA_VERSION, check_version, is_readable, upgraded
from wire.errors import ArchiveError
from wire.whole_file import sync_to_disk, whole_file

_NAME = re.compile(r"attempt=(\d+)-step=(\d+)(?:-part=(\d+))?\.parquet")
_VERSION_KEY = b"deepintuit.trace_schema"
_GROUPS_PER_ROW_GROUP = 64  # bounds what compaction and reading hold in memory


class FileName(NamedTuple):
    """What the name of a Parquet file says; files sort by it."""

    attempt: int
    step: int
    part: int = 0

    def __str__(self) -> str:
        part = f"-part={self.part}" if self.part else ""
        return f"attempt={self.attempt:03d}-step={self.step:06d}{part}.parquet"


def parquet_files(directory: Path) -> list[Path]:
    """The Parquet files of an archive, by attempt, then in the order of writing. Raises
    ArchiveError for a foreign one."""
    return sorted((directory / "traces").glob("*.parquet"), key=name_of)


def name_of(path: Path) -> FileName:
    """The attempt, step and part of a file. Raises ArchiveError for a foreign one."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ArchiveError(f"{path} is not a file of the trace archive; move it elsewhere")
    return FileName(int(match[1]), int(match[2]), int(match[3] or 0))


def free_path(directory: Path, attempt: int, step: int) -> Path:
    """A name in the archive that no file has yet."""
    names = (FileName(attempt, step, part) for part in itertools.count())
    paths = (directory / "traces" / str(name) for name in names)
    return next(path for path in paths if not path.exists())


def write_parquet(
    path: Path, tables: Iterable[pa.Table], metadata: Mapping[bytes, bytes] | None = None
) -> None:
    """Write rows of SCHEMA to a file that appears whole under its name, or not at all.

    ``tables``: each of whole groups. ``metadata``: to add to the footer's. Raises OSError.
    """
    schema = SCHEMA.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode(), **(metadata or {})})
    rest = iter(tables)
    with (
        whole_file(path, sync=True) as partial,
        partial.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while some := list(itertools.islice(rest, _GROUPS_PER_ROW_GROUP)):
            rows = pa.concat_tables(some).cast(schema)
            writer.write_table(rows, row_group_size=rows.num_rows)
    sync_to_disk(path.parent)


def row_groups(path: Path, columns: Iterable[str], number: int | None = None) -> Iterator[pa.Table]:
    """The rows of a file, some groups at a time, as of the newest schema; with ``number``, only the
    row group of that number. Raises ArchiveError."""
    wanted = list(columns)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow)
            held = [name for name in wanted if name in file.schema_arrow.names]
            for index in range(file.num_row_groups) if number is None else (number,):
                table = file.read_row_group(index, columns=held).replace_schema_metadata()
                yield upgraded(table, wanted)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArchiveError(f"{path} is damaged or no Parquet file: {error}") from error


def footer_metadata(path: Path) -> Mapping[bytes, bytes]:
    """The metadata in a file's footer. Raises ArchiveError."""
    return _footer(path).metadata or {}


def is_current(path: Path) -> bool:
    """Whether a file is of the newest schema, so that no migration has to write it anew. Raises
    ArchiveError for one that is not read at all."""
    schema = _footer(path)
    _check_schema(path, schema)
    return int((schema.metadata or {})[_VERSION_KEY]) == SCHEMA_VERSION


def _footer(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArchiveError(f"{path} is damaged or no Parquet file: {error}") from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY, b"")
    if not version.isdigit():
        raise ArchiveError(f"{path} is not a file of the trace archive; move it elsewhere")
    check_version(path, int(version))
    if not is_readable(schema):
        raise ArchiveError(f"{path} lacks columns of the trace archive; restore it")
