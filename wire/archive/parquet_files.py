"""Parquet files of the trace archive: their names, their listing, and how rows get in and out.

    tables -> write_parquet -> traces/attempt=000-step=000040.parquet -> row_groups -> tables

A file is never touched again once it has its name. Its footer's metadata hold the version of the
schema; a caller may add keys of its own. A file that compaction merged names in its footer the
files that it replaces, each with a hash of its own footer: while one of them is still there,
``parquet_files`` leaves it out.
"""

import bisect
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from wire.archive.deletion import COLUMNS, Deletions, read_deletions
from wire.archive.trace_rows import (
    FILE_SCHEMA,
    SCHEMA_VERSION,
    check_version,
    group_starts,
    upgraded,
    version_of,
)
from wire.errors import ArchiveError
from wire.remote_path import arrow_source
from wire.whole_file import sync_to_disk, whole_file

_NAME = re.compile(r"attempt=(\d+)-step=(\d+)(?:-part=(\d+))?(?:-to=(\d+)-merge=(\d+))?\.parquet")
_VERSION_KEY = b"deepintuit.trace_schema"
_REPLACES_KEY = b"deepintuit.replaces"
_ROWS, _BYTES = 4096, 32 << 20
"""Most of a row group, unless one group has more: bounds what writing and reading hold in memory.
Bytes are those of the rows in memory."""
_PLAIN = ("text", "prompt_token_ids", "frame_indices", "token_ids")
_ENCODINGS = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("token_ids", "logprobs")}
_TAIL_BYTES = 1 << 16  # hashed to tell two files of one name apart: a footer lists all row groups


class FileName(NamedTuple):
    """What the name of a Parquet file says.

    Example:
        str(FileName(0, 5, to=90, merge=1)) == "attempt=000-step=000005-to=000090-merge=1.parquet"
    """

    attempt: int
    step: int
    part: int = 0
    to: int = 0
    """Last step of a merged file."""
    merge: int = 0
    """0: as the run wrote it; else how often its rows were merged."""

    def __str__(self) -> str:
        part = f"-part={self.part}" if self.part else ""
        merged = f"-to={self.to:06d}-merge={self.merge}" if self.merge else ""
        return f"attempt={self.attempt:03d}-step={self.step:06d}{part}{merged}.parquet"

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Sort key: the order of writing; a merged file stands where its first part stood."""
        return self.attempt, self.step, self.part, -self.merge

    @property
    def last_step(self) -> int:
        """Step of the newest part."""
        return self.to if self.merge else self.step

    def covers(self, other: "FileName") -> bool:
        """Whether this is a merged file that may replace the other, by their names alone."""
        return (
            self.merge > other.merge
            and self.attempt == other.attempt
            and self.step <= other.step
            and other.last_step <= self.to
        )


def parquet_files(directory: Path) -> list[Path]:
    """The Parquet files of an archive, by attempt, then in the order of writing, without those that
    a merged file replaces. Raises ArchiveError for a foreign one."""
    files, replaced = files_and_replaced(directory)
    return [path for path in files if path not in replaced]


def files_and_replaced(directory: Path) -> tuple[list[Path], set[Path]]:
    """All Parquet files of an archive, in order, and those of them that merged files replace: a
    compaction was killed, or is about to remove them. Raises ArchiveError for a foreign one."""
    while True:
        names = {path: name_of(path) for path in _listing(directory)}
        files = sorted(names, key=lambda path: names[path].order)
        replaced: set[Path] = set()
        try:
            for merged in [path for path in files if names[path].merge]:
                covered = [path for path in files if names[merged].covers(names[path])]
                identities = replaces(merged) if covered else {}
                replaced.update(
                    path
                    for path in covered
                    if path.name in identities and identity(path) == identities[path.name]
                )
        except FileNotFoundError:
            continue  # merged meanwhile
        return files, replaced


def _listing(directory: Path) -> set[Path]:
    """The files of a folder, listed until two lists are equal: one alone may lack both the merged
    file that appears and one that goes meanwhile."""
    before, now = None, set((directory / "traces").glob("*.parquet"))
    while before != now:
        before, now = now, set((directory / "traces").glob("*.parquet"))
    return now


def name_of(path: Path) -> FileName:
    """The attempt, step and part of a file. Raises ArchiveError for a foreign one."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ArchiveError(f"{path} is not a file of the trace archive; move it elsewhere")
    return FileName(*(int(number or 0) for number in match.groups()))


def free_path(directory: Path, attempt: int, step: int) -> Path:
    """A name in the archive that no file has yet."""
    names = (FileName(attempt, step, part) for part in itertools.count())
    paths = (directory / "traces" / str(name) for name in names)
    return next(path for path in paths if not path.exists())


def identity(path: Path) -> str:
    """Hash that tells a file from another that had its name before. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        return f"{size}-{hashlib.sha256(file.read()).hexdigest()[:32]}"


def replacing(paths: Sequence[Path]) -> dict[bytes, bytes]:
    """Footer metadata of a file that replaces others. Raises OSError."""
    return {_REPLACES_KEY: json.dumps({path.name: identity(path) for path in paths}).encode()}


def replaces(path: Path) -> dict[str, str]:
    """Names of the files that a file replaces, each with its identity. Raises ArchiveError, and
    FileNotFoundError."""
    content: dict[str, str] = json.loads(footer_metadata(path).get(_REPLACES_KEY, b"{}"))
    return content


def scan(
    directory: Path,
    columns: Iterable[str],
    attempt: int | None = None,
    deletions: Deletions | None = None,
) -> Iterator[tuple[Path, int, pa.Table]]:
    """All rows in Parquet, or those of an attempt, by file and row group, beside a compaction too:
    files that it has merged meanwhile are read in the merged one, of which some groups may then
    come a second time.

    Without rows that ``deletions`` hide: by default the archive's. Oldest attempt first. Raises
    ArchiveError.
    """
    wanted = list(columns)
    hidden = read_deletions(directory) if deletions is None else deletions
    loaded = list(dict.fromkeys([*wanted, *COLUMNS])) if hidden else wanted
    read: set[str] = set()
    missing: set[str] = set()
    since = 0  # attempt that is being read: those before it are complete
    while True:
        for path in parquet_files(directory):
            number = name_of(path).attempt
            if path.name in read or number < since or attempt not in (None, number):
                continue
            since = number
            try:
                for index, table in enumerate(row_groups(path, loaded)):
                    yield path, index, hidden.kept(table).select(wanted)
            except FileNotFoundError as error:
                if path.name in missing:
                    raise ArchiveError(f"{path} is listed but not there; restore it") from error
                missing.add(path.name)
                break
            read.add(path.name)
        else:
            return


def write_parquet(
    path: Path,
    tables: Iterable[pa.Table],
    metadata: Mapping[bytes, bytes] | None = None,
    suffix: str = ".partial",
) -> None:
    """Write rows of SCHEMA to a file that appears whole under its name, or not at all.

    ``tables``: each of whole groups. ``metadata``: to add to the footer's. ``suffix``: of its name
    until it is whole. Raises OSError.
    """
    schema = FILE_SCHEMA.with_metadata(
        {_VERSION_KEY: str(SCHEMA_VERSION).encode(), **(metadata or {})}
    )
    with (
        whole_file(path, sync=True, suffix=suffix) as partial,
        partial.open("wb") as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=_repetitive_columns(),
            column_encoding=_ENCODINGS,
            write_page_index=True,
            write_page_checksum=True,
        ) as writer,
    ):
        for rows in _in_row_groups(tables):
            writer.write_table(rows.cast(schema), row_group_size=rows.num_rows)
    sync_to_disk(path.parent)


def row_groups(path: Path, columns: Iterable[str], number: int | None = None) -> Iterator[pa.Table]:
    """The rows of a file, some groups at a time, as of the newest schema; with ``number``, only the
    row group of that number, if there is one. Raises ArchiveError, and FileNotFoundError for a file
    that is not there (any more)."""
    wanted = list(columns)
    with (
        _naming_damage(path),
        pq.ParquetFile(arrow_source(path), page_checksum_verification=True) as file,
    ):
        _check_schema(path, file.schema_arrow)
        held = [name for name in wanted if name in file.schema_arrow.names]
        every = range(file.num_row_groups)
        for index in every if number is None else every[number : number + 1]:
            table = file.read_row_group(index, columns=held).replace_schema_metadata()
            yield upgraded(table, wanted)


def footer_metadata(path: Path) -> Mapping[bytes, bytes]:
    """The metadata in a file's footer. Raises ArchiveError, and FileNotFoundError."""
    return _footer(path).metadata or {}


def is_current(path: Path) -> bool:
    """Whether a file is of the newest schema, so that no migration has to write it anew. Raises
    ArchiveError for one that is not read at all."""
    schema = _footer(path)
    _check_schema(path, schema)
    return int((schema.metadata or {})[_VERSION_KEY]) == SCHEMA_VERSION


def _in_row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of whole groups, cut between groups into parts of about the size of a row group."""
    held: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in filter(len, tables):
        row_bytes = table.nbytes / len(table) or 1
        ends = [*group_starts(table)[1:].tolist(), len(table)]
        start = 0
        while start < len(table):
            room = min(_ROWS - num_rows, int((_BYTES - num_bytes) / row_bytes))
            place = bisect.bisect_right(ends, start + room) - 1
            fits = place >= 0 and ends[place] > start
            if not fits and held:
                yield pa.concat_tables(held)
                held, num_rows, num_bytes = [], 0, 0
                continue
            end = ends[place] if fits else ends[bisect.bisect_right(ends, start)]
            held.append(table.slice(start, end - start))
            num_rows += end - start
            num_bytes += int((end - start) * row_bytes)
            start = end
    if held:
        yield pa.concat_tables(held)


def _repetitive_columns() -> list[str]:
    """Columns, as Parquet names them, whose values repeat so that a dictionary pays."""
    names = []
    for field in FILE_SCHEMA:
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            names += [f"{field.name}.list.element.{inner.name}" for inner in field.type.value_type]
        elif not pa.types.is_list(field.type) and field.name not in _PLAIN:
            names.append(field.name)
    return names


def _footer(path: Path) -> pa.Schema:
    with _naming_damage(path):
        return pq.read_schema(arrow_source(path))


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn what Arrow raises in the block into an ArchiveError, but for a file that has gone."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArchiveError(
            f"{path} is damaged or no Parquet file: {error}; restore it, or move it away to go on "
            "without its groups"
        ) from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY, b"")
    if not version.isdigit():
        raise ArchiveError(f"{path} is not a file of the trace archive; move it elsewhere")
    check_version(path, int(version))
    if version_of(schema.remove_metadata()) != int(version):
        raise ArchiveError(f"{path} lacks columns of the trace archive; restore it")
