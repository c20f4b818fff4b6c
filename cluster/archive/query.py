"""SQL over an archive, through DuckDB: the view ``traces`` has a row per trace.

    Parquet files, and the journals as an Arrow table -> view traces -> SELECT -> batches of rows

The archive is read where it lies, and only read. What a running job has still in its journal is
there too, and each group once, also while files are merged. Needs the extra
``deepintuit[archive]``.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.archive import journals
from wire.archive.deletion import Deletions, read_deletions
from wire.archive.journal import read_journal
from wire.archive.parquet_files import is_current, name_of, parquet_files
from wire.archive.trace_rows import SCHEMA
from wire.errors import ArchiveError, ConfigError
from wire.remote_path import RemotePath, arrow_dataset
from wire.types import stable_hash

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_BATCH_ROWS = 10_000
_MAP = "map_from_entries(reward_parts) AS reward_parts"  # of version 3: a list of pairs
_GLOB = re.compile(r"([\[*?])")


class Answer:
    """Rows that a query gives, in batches, and their schema."""

    def __init__(self, first: pa.Table, rest: Iterator[pa.Table]) -> None:
        self.schema: pa.Schema = first.schema
        self._first, self._rest = first, rest

    def __iter__(self) -> Iterator[pa.Table]:
        yield self._first
        yield from self._rest


def query(directory: Path, sql: str) -> Answer:
    """The answer to one SELECT over the view ``traces``.

    Raises ConfigError with DuckDB's own words for a statement that is wrong or would write, and if
    DuckDB is not installed; ArchiveError for an archive that cannot be read.
    """
    duckdb = _duckdb()
    _check_only_selects(duckdb, sql)
    while True:
        files = parquet_files(directory)
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        try:
            with _naming(directory, duckdb.Error, FileNotFoundError):
                _make_view(connection, directory, files)
            with _naming(directory, duckdb.IOException):
                reader = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
                rest = _tables(connection, reader)
                empty = reader.schema.empty_table()
                return Answer(next(rest, empty.rename_columns(_distinct(empty))), rest)
        except ArchiveError:
            if parquet_files(directory) == files:
                raise
            # else merged under the query: again, with the files of now
        except duckdb.Error as error:
            raise _refusal(error) from error


@contextmanager
def _naming(directory: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an error that is the archive's into an ArchiveError."""
    try:
        yield
    except kinds as error:
        raise ArchiveError(f"cannot read the archive in {directory}: {_words(error)}") from error


def _refusal(error: Exception) -> ConfigError:
    return ConfigError(f"{_words(error)}; columns: deepintuit archive schema")


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError(
            "SQL needs DuckDB, which is not installed: pip install 'deepintuit[archive]'; "
            "`deepintuit archive ls --where` filters without it"
        ) from error
    return duckdb


def _check_only_selects(duckdb: Any, sql: str) -> None:
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise _refusal(error) from error
    if len(kinds) != 1:
        raise ConfigError(f"got {len(kinds)} SQL statements; give one SELECT over traces")
    if kinds[0] != duckdb.StatementType.SELECT:
        raise ConfigError(
            f"an archive is only read: got {kinds[0].name}; give a SELECT, and for a file of its "
            "answer --csv or --json"
        )


def _make_view(connection: "DuckDBPyConnection", directory: Path, files: Sequence[Path]) -> None:
    deletions = read_deletions(directory)
    rows = deletions.kept(_journaled(connection, directory, files))
    connection.register("journaled", rows)
    current = [file for file in files if is_current(file)]
    older = [file for file in files if file not in set(current)]
    parts = ["SELECT * FROM journaled"]
    parts += [f"SELECT * REPLACE ({_MAP}) FROM {_read(connection, current)}"] if current else []
    parts += [f"SELECT * FROM {_read(connection, older)}"] if older else []
    stored = f"({' UNION ALL BY NAME '.join(parts)})"  # no view of its own: it has deleted rows
    where = _not_deleted(connection, stored, deletions) if deletions else "true"
    connection.execute(f"CREATE TEMP VIEW traces AS SELECT * FROM {stored} WHERE {where}")


def _not_deleted(connection: "DuckDBPyConnection", stored: str, deletions: Deletions) -> str:
    """The condition of rows whose video is not deleted."""
    without = f"SELECT DISTINCT video FROM {stored} WHERE coalesce(video_hash, '') = ''"
    videos = [video for (video,) in connection.execute(without).fetchall()]
    own = pa.array(deletions.of_addresses(videos), pa.string())
    connection.register("deleted_hashes", pa.table({"hash": sorted(deletions.hashes)}))
    connection.register("deleted_videos", pa.table({"video": own}))
    return (
        "coalesce(video_hash, '') NOT IN (SELECT hash FROM deleted_hashes) AND NOT "
        "(coalesce(video_hash, '') = '' AND video IN (SELECT video FROM deleted_videos))"
    )


def _journaled(
    connection: "DuckDBPyConnection", directory: Path, files: Sequence[Path]
) -> pa.Table:
    """The groups that are in a journal and in none of ``files``."""
    fresh = [SCHEMA.empty_table()]
    for attempt, path in journals(directory).items():
        try:
            rows = pa.concat_tables([SCHEMA.empty_table(), *read_journal(path)])
        except FileNotFoundError:  # recovered since, into a file that is not among these
            continue
        own = [file for file in files if name_of(file).attempt == attempt]
        names = rows["group_id"].unique()
        if own and len(names):
            stored_in = _read(connection, own)
            ids = f"SELECT DISTINCT group_id FROM {stored_in} WHERE group_id IN (SELECT unnest(?))"
            stored = connection.execute(ids, [names.to_pylist()]).fetchall()
            known = pa.array([name for (name,) in stored], pa.string())
            rows = rows.filter(pc.invert(pc.is_in(rows["group_id"], known)))
        fresh.append(rows)
    return pa.concat_tables(fresh)


def _read(connection: "DuckDBPyConnection", files: Sequence[Path]) -> str:
    """The SQL that reads these files; those of older schemas lack columns. Files in a store are
    read through fsspec, so that DuckDB needs no extension."""
    if isinstance(files[0], RemotePath):
        name = f"files_{stable_hash(*map(str, files))[:16]}"
        connection.register(name, arrow_dataset(files))
        return name
    names = [_GLOB.sub(r"[\1]", str(file)).replace("'", "''") for file in files]
    listed = ", ".join(f"'{name}'" for name in names)
    return f"read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"


def _tables(connection: "DuckDBPyConnection", reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    for batch in reader:
        table = pa.Table.from_batches([batch])
        yield table.rename_columns(_distinct(table))
    connection.close()


def _distinct(table: pa.Table) -> list[str]:
    """Names of the columns, of which a join may have given several one name: text, text_1."""
    names: list[str] = []
    for name in table.column_names:
        others = (f"{name}_{number}" for number in itertools.count(1))
        taken = {*names, *table.column_names} if name in names else set()
        names.append(next(other for other in others if other not in taken) if taken else name)
    return names


def _words(error: Exception) -> str:
    """DuckDB's message and hint, without the copy of the statement below them."""
    return " ".join(re.sub(r"\n\s*LINE \d+:.*", "", str(error), flags=re.DOTALL).split())
