"""Follower of an archive that a run still writes: yields the groups of one purpose that are new,
each once.

    journals, Parquet files -> split and purpose -> not met before? -> TraceGroup

Only reads, and takes no lock. A group may be met again: compacted from the journal, merged into
another file, after a resume; it is known by its attempt and id. Test clips are never read: their
rows are left out by their split before anything is made of them, as those of deleted videos are.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.archive import journal_tables
from wire.archive.deletion import COLUMNS, Deletions, read_deletions
from wire.archive.parquet_files import parquet_files, row_groups
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA
from wire.types import PolicyVersion, Purpose, Split, TraceGroup

_FACTS = ["purpose", "split", "attempt", "step", *COLUMNS]  # read first: few rows are followed


class ArchiveFollower:
    """A follower of the archive in ``directory``, which need not be there yet."""

    def __init__(
        self,
        directory: Path,
        purpose: Purpose,
        versions: Collection[PolicyVersion] | None = None,
    ) -> None:
        """``versions``: only what these wrote; None: all of that purpose."""
        self._directory, self._purpose = directory, purpose
        self._deletions = Deletions()
        self._versions = None if versions is None else {(v.attempt, v.step) for v in versions}
        self._read: set[tuple[str, int, int]] = set()
        self._met: set[tuple[int, str]] = set()

    def new_groups(self) -> Iterator[TraceGroup]:
        """Groups that came since the last call, none of a test clip. Raises ArchiveError for a file
        that is foreign, damaged or of another schema version."""
        if not self._directory.is_dir():
            return
        self._deletions = read_deletions(self._directory)
        # Journals first: a group that is compacted meanwhile is then met twice, never missed.
        journals = [(path, self._followed(t)) for path, t in journal_tables(self._directory)]
        yield from self._files()
        for path, table in journals:
            yield from self._new(path, table)

    def _files(self) -> Iterator[TraceGroup]:
        while unread := [
            p for p in parquet_files(self._directory) if _identity(p) not in self._read
        ]:
            for path in unread:
                identity = _identity(path)
                try:
                    for table in self._tables(path):
                        yield from self._new(path, table)
                except FileNotFoundError:
                    break  # merged into another one meanwhile
                self._read.add(identity)

    def _tables(self, path: Path) -> Iterator[pa.Table]:
        deletions = read_deletions(self._directory)
        for number, facts in enumerate(row_groups(path, _FACTS)):
            if self._followed(facts).num_rows:
                (rows,) = row_groups(path, SCHEMA.names, number=number)
                yield deletions.kept(self._followed(rows))

    def _followed(self, rows: pa.Table) -> pa.Table:
        own = self._deletions.kept(rows)
        own = own.filter(pc.not_equal(own["split"], Split.TEST.value))
        own = own.filter(pc.equal(own["purpose"], self._purpose.value))
        if self._versions is None:
            return own
        wrote = zip(own["attempt"].to_pylist(), own["step"].to_pylist(), strict=True)
        return own.filter(pa.array([version in self._versions for version in wrote], pa.bool_()))

    def _new(self, path: Path, rows: pa.Table) -> Iterator[TraceGroup]:
        keys = list(zip(rows["attempt"].to_pylist(), rows["group_id"].to_pylist(), strict=True))
        fresh = rows.filter(pa.array([key not in self._met for key in keys], pa.bool_()))
        for group in groups_in(fresh.combine_chunks(), source=str(path)):
            self._met.add((group.policy_version.attempt, group.group_id))
            yield group


def _identity(path: Path) -> tuple[str, int, int]:
    """A file's own: it never changes, but one that was merged away may leave its name to another;
    of one that is gone its name alone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return path.name, 0, 0
    return path.name, stat.st_ino, stat.st_mtime_ns
