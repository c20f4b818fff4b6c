"""Index of an archive for browsing: a small file per traces file, without tokens and texts.

    traces/NAME.parquet -> index/NAME.parquet: a row per trace, and the file's counts in its footer
    browse(where, offset, limit) -> a page of rows;  summarise -> counts, without reading a row

Compaction makes it. Of a file without an index (a run's newest steps, its journal) the rows are
read from the file itself. An index names the file that it is of by a hash, so that an old one is
never taken for that of a file which has the same name.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from wire.archive.archive import attempt_of, journals
from wire.archive.deletion import Deletions, read_deletions
from wire.archive.index_files import (
    COUNTED,
    INDEX_SCHEMA,
    Count,
    count_rows,
    index_content,
    index_counts,
    index_path,
    index_rows,
    rows_for_index,
)
from wire.archive.journal import read_journal
from wire.archive.parquet_files import name_of, parquet_files
from wire.errors import ArchiveError
from wire.remote_path import arrow_dataset, arrow_source

BROWSE_COLUMNS = (*INDEX_SCHEMA.names, "file")
"""Columns of a page of rows. ``file``: name of the traces file or journal that holds the trace."""
_LOOKS = 5
_THREADS = 16  # most wait for a disk or a store
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of an archive, and its size."""

    counts: tuple[Count, ...]
    """Sorted by attempt, purpose, split and label."""
    num_files: int
    """Traces files and journals."""
    num_bytes: int
    """Of those."""
    num_indexed: int
    """Files that have an index."""


class Source:
    """A traces file or journal whose rows are listed: its index file, or a table of its rows."""

    def __init__(self, path: Path, rows: Path | pa.Table) -> None:
        self.path = path
        self._rows = rows

    @property
    def is_indexed(self) -> bool:
        """Whether the rows are in an index file."""
        return isinstance(self._rows, Path)

    @property
    def _dataset(self) -> Any:
        is_table = isinstance(self._rows, pa.Table)
        return ds.dataset(self._rows) if is_table else arrow_dataset([self._rows])

    @cached_property
    def _parts(self) -> list[Any]:
        """Fragments of the size of a row group."""
        fragments = self._dataset.get_fragments()
        return [
            part
            for one in fragments
            for part in (one.split_by_row_group() if self.is_indexed else [one])
        ]

    def matches(self, where: pc.Expression | None) -> list[int]:
        """Number of rows that ``where`` keeps, of each part."""
        if where is not None:
            with ThreadPoolExecutor() as threads:
                return list(threads.map(lambda part: part.count_rows(filter=where), self._parts))
        if not self.is_indexed:
            return [part.count_rows() for part in self._parts]
        # (without a filter, each part would count the rows of the whole file)
        return [part.row_groups[0].num_rows for part in self._parts]

    def known(self, ids: pa.Array) -> list[str]:
        """Those of some group ids that are here."""
        span = pc.min_max(ids)  # files say the least and the greatest of their ids
        field = pc.field("group_id")
        within = (field >= span["min"]) & (field <= span["max"]) & field.isin(ids)
        names: set[str] = set()
        for part in self._parts:
            names.update(part.to_table(columns=["group_id"], filter=within)["group_id"].to_pylist())
        return sorted(names)

    def page(
        self,
        columns: Sequence[str],
        where: pc.Expression | None,
        matches: Sequence[int],
        offset: int,
        limit: int,
    ) -> pa.Table:
        """Rows that ``where`` keeps, at most ``limit`` from the one numbered ``offset`` on, with
        the file's name; ``matches``: their numbers."""
        parts = [pa.schema([INDEX_SCHEMA.field(name) for name in columns]).empty_table()]
        for part, num in zip(self._parts, matches, strict=True):
            take = min(limit, max(0, num - offset))
            if take:
                rows = part.to_table(columns=list(columns), filter=where).slice(offset, take)
                parts.append(rows.replace_schema_metadata())
            offset, limit = max(0, offset - num), limit - take
        rows = pa.concat_tables(parts)
        return rows.append_column("file", pa.array([self.path.name] * len(rows), pa.string()))

    def counts(self) -> list[Count]:
        """Counts of the rows, from the index's footer where there is one."""
        if isinstance(self._rows, pa.Table):
            return count_rows(self._rows)
        return index_counts(self._rows)


def browse(
    directory: Path,
    columns: Sequence[str] = BROWSE_COLUMNS,
    where: pc.Expression | None = None,
    *,
    offset: int = 0,
    limit: int = 100,
    newest_first: bool = False,
) -> pa.Table:
    """A page of an archive's traces, in the order of writing or the other way round: those that
    ``where`` keeps, at most ``limit`` from the one numbered ``offset`` on.

    ``where`` may use BROWSE_COLUMNS but ``file``. Raises ArchiveError.
    """
    stored = [name for name in dict.fromkeys(columns) if name != "file"] or ["attempt"]
    schema = pa.schema([*(INDEX_SCHEMA.field(name) for name in stored), ("file", pa.string())])

    def pages() -> Iterator[pa.Table]:
        left, skip = limit, offset
        listed = list(sources(directory))
        for source in reversed(listed) if newest_first else listed:
            matches = source.matches(where)
            num = sum(matches)
            take = min(left, max(0, num - skip))
            if take:
                first = num - skip - take if newest_first else skip
                yield source.page(stored, where, matches, first, take)
            left, skip = left - take, max(0, skip - num)
            if not left:
                return

    def page() -> pa.Table:
        parts = [part.take(_backwards(part)) if newest_first else part for part in pages()]
        return pa.concat_tables([schema.empty_table(), *parts]).select(list(columns))

    return _beside_compactions(page)


def count(directory: Path, where: pc.Expression | None = None) -> int:
    """Number of an archive's rows that ``where`` keeps. Raises ArchiveError."""
    return _beside_compactions(lambda: sum(sum(one.matches(where)) for one in sources(directory)))


def summarise(directory: Path) -> Summary:
    """Counts of an archive, and its size. Raises ArchiveError."""

    def summary() -> Summary:
        counts: dict[tuple[Any, ...], Count] = {}
        listed = list(sources(directory))
        for one in (one for source in listed for one in source.counts()):
            key = tuple(getattr(one, name) for name in COUNTED)
            counts[key] = counts[key] + one if key in counts else one
        return Summary(
            counts=tuple(counts[key] for key in sorted(counts)),
            num_files=len(listed),
            num_bytes=sum(source.path.stat().st_size for source in listed),
            num_indexed=sum(source.is_indexed for source in listed),
        )

    return _beside_compactions(summary)


def _beside_compactions(look: Callable[[], T]) -> T:
    """Look again when files went meanwhile, which a compaction has merged."""
    for _ in range(_LOOKS):
        try:
            return look()
        except FileNotFoundError as error:
            missing = error
    raise ArchiveError(f"a file of the archive is listed but not there: {missing}") from missing


def sources(directory: Path) -> Iterator[Source]:
    """The traces files and journals of an archive, each with its rows that are not deleted, in the
    order of writing. Raises ArchiveError, and FileNotFoundError for a file that was merged
    meanwhile."""
    if not directory.is_dir():
        raise ArchiveError(f"there is no trace archive at {directory}; give the directory of a run")
    deletions = read_deletions(directory)
    journaled = _journaled(directory, deletions)  # first: what is compacted meanwhile is met twice
    with ThreadPoolExecutor(_THREADS) as threads:
        paths = parquet_files(directory)
        files = list(threads.map(lambda path: _source(directory, path, deletions), paths))
    yield from files
    for path, rows in journaled:
        yield _not_in(files, path, rows)


def _backwards(table: pa.Table) -> pa.Array:
    return pa.array(range(len(table) - 1, -1, -1), pa.int64())


def _source(directory: Path, traces: Path, deletions: Deletions) -> Source:
    """Raises FileNotFoundError, if the file was merged meanwhile."""
    content = index_content(directory, traces)
    if content is None:
        rows = index_rows(traces)
    elif not _has_deleted(index_path(directory, traces), deletions):
        return Source(traces, index_path(directory, traces))
    else:
        rows = pq.read_table(arrow_source(index_path(directory, traces))).replace_schema_metadata()
    return Source(traces, deletions.kept(rows))


def _has_deleted(index: Path, deletions: Deletions) -> bool:
    if not deletions:
        return False
    columns = pq.read_table(arrow_source(index), columns=["video", "video_hash"])
    return deletions.deleted(columns) is not None


def _journaled(directory: Path, deletions: Deletions) -> list[tuple[Path, pa.Table]]:
    tables = []
    for path in journals(directory).values():
        try:
            parts = [rows_for_index(table, None) for table in read_journal(path)]
        except FileNotFoundError:
            continue  # recovered meanwhile: its groups are in Parquet
        rows = deletions.kept(pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts]))
        tables.append((path, rows))
    return tables


def _not_in(files: Iterable[Source], path: Path, rows: pa.Table) -> Source:
    """A journal, without groups that are in Parquet too: a step was compacted meanwhile, or a crash
    came before the journal was emptied."""
    ids = rows["group_id"].unique()
    own = [source for source in files if name_of(source.path).attempt == attempt_of(path)]
    known = [name for source in own for name in source.known(ids)] if len(ids) else []
    kept = rows.filter(pc.invert(pc.is_in(rows["group_id"], pa.array(known, pa.string()))))
    return Source(path, kept)
