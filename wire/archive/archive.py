"""The trace archive of a run: every group that was written, durable before it is trained on.

    TraceGroup -> journal-0.bin -> traces/attempt=000-step=000040.parquet -> read_groups, read_table
                  (group by group) (step by step)

Groups that threads append at the same time share one write to the disk (group commit).

    crash while              what it leaves                      what happens to that
    appending a group        a torn record at the journal's end  cut off on reopening
    writing Parquet          a ``*.partial`` file, the journal   removed; the journal counts
    replacing the journal    groups in Parquet and journal       each read once, by (attempt, id)
    running at all           the journal of an older attempt     compacted by the next attempt

A Parquet file is never touched again once it has its name. Reading takes no lock and may go on
while the run writes. One process writes an attempt; ``next_attempt`` gives each run its own.
"""

import itertools
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.deletion import Deletions, read_deletions
from wire.archive.group_commit import GroupCommit
from wire.archive.journal import (
    Journal,
    empty_journal,
    is_outdated,
    naming,
    read_journal,
    record_of,
)
from wire.archive.locks import hold_as_writer
from wire.archive.parquet_files import (
    free_path,
    name_of,
    parquet_files,
    scan,
    write_parquet,
)
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA
from wire.errors import ArchiveError
from wire.remote_path import RemotePath
from wire.types import PolicyVersion, Purpose, TraceGroup
from wire.whole_file import sync_to_disk

_JOURNAL_NAME = re.compile(r"journal-(\d+)\.bin")


class Archive:
    """The archive in ``directory``, open for the groups of one attempt. Threads may share it.

    Opening removes what a crashed compaction left and compacts the journals of older attempts. The
    same attempt may be opened again: its journal goes on. Raises ArchiveError, naming the file, if
    the directory cannot be written or a file in it is damaged or newer than this program.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        self.directory = directory
        self._attempt = attempt
        self._files = threading.Lock()
        self._claiming = threading.Lock()
        self._commit = GroupCommit(self._write)
        with naming(f"cannot open the archive in {directory}"):
            (directory / "traces").mkdir(parents=True, exist_ok=True)
            sync_to_disk(directory.parent)
            for leftover in (directory / "traces").glob("*.partial"):
                leftover.unlink()
            self._writing = hold_as_writer(directory)
        try:
            own = directory / f"journal-{attempt}.bin"
            with naming(f"cannot open the journal {own}"):
                if own.exists() and is_outdated(own):
                    recover(directory, attempt, keep=True)
            # Ours first: from here on nobody else is given this attempt, whatever recovery removes.
            self._journal = Journal(own)
        except BaseException:
            self._writing.close()
            raise
        try:
            self._compacted = _compacted_ids(directory, attempt)
            self._claimed = self._compacted | self._journal.group_ids
            for older in [number for number in journals(directory) if number < attempt]:
                recover(directory, older)
        except BaseException:
            self.close()
            raise

    def append(self, group: TraceGroup) -> None:
        """Archive one group. Once this returns it survives any crash, and may be trained on.

        Raises ArchiveError if this attempt has the id already, if a value has no place in the
        schema, or if the file cannot be written: all groups before this one stay readable.
        """
        record = record_of(group)
        with self._claiming:
            if group.group_id in self._claimed:
                raise ArchiveError(
                    f"group {group.group_id!r} is already in attempt {self._attempt} of "
                    f"{self.directory}; give every group its own id"
                )
            self._claimed.add(group.group_id)
        try:
            self._commit.add(group.group_id, record)
        except OSError as error:
            with self._claiming:
                self._claimed.discard(group.group_id)
            raise ArchiveError(
                f"cannot append group {group.group_id!r} to {self._journal.path} (the groups "
                f"before it are kept): {error.strerror or error}"
            ) from error

    def compact(self, step: int) -> Path | None:
        """Move the journaled groups into a Parquet file named after ``step``.

        Returns its path, or None if there was nothing to move. Raises ArchiveError if it cannot be
        written: every group is then still in the journal.
        """
        with self._files:
            path = _compact(self.directory, self._attempt, step, self._compacted)
            self._compacted |= self._journal.group_ids
            self._journal.clear()
            return path

    @property
    def num_groups(self) -> int:
        """Groups of this attempt so far."""
        with self._files:
            return len(self._compacted | self._journal.group_ids)

    def close(self) -> None:
        """Close the journal, once what another thread appends or compacts is written; its groups
        are read from there."""
        with self._files:
            self._journal.close()
            self._writing.close()

    def _write(self, records: Mapping[str, bytes]) -> None:
        with self._files:
            self._journal.append(records)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def next_attempt(directory: Path) -> int:
    """The attempt of a run that starts now: the highest found plus one, 0 in a fresh directory.

    Raises ArchiveError for a foreign Parquet file among the traces.
    """
    attempts = [name_of(path).attempt for path in parquet_files(directory)]
    return max([*attempts, *journals(directory)], default=-1) + 1


def read_groups(
    directory: Path,
    purpose: Purpose | None = None,
    policy_version: PolicyVersion | None = None,
) -> Iterator[TraceGroup]:
    """Every archived group, exactly as it was appended; with filters, those that match them all.

    By attempt and step, then in the order of writing; what is still in a journal comes last. Raises
    ArchiveError, naming the file, for a directory that is not there and for a file that is foreign,
    damaged or of another schema version.
    """
    _require(directory)
    return _groups(directory, purpose, policy_version)


def read_table(directory: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the archive, one per trace, for analysis: a table of ``trace_rows.SCHEMA``.

    With ``columns``, only those. Raises ArchiveError as read_groups does, and for unknown columns.
    """
    tables = read_tables(directory, columns)
    empty = SCHEMA.empty_table().select(SCHEMA.names if columns is None else list(columns))
    return pa.concat_tables([empty, *tables])


def read_tables(directory: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """``read_table`` in parts of some groups each, for an archive that memory would not hold.

    The rows of a group are side by side in one part. Raises as ``read_table`` does.
    """
    _require(directory)
    wanted = SCHEMA.names if columns is None else list(columns)
    unknown = sorted(set(wanted) - set(SCHEMA.names))
    if unknown:
        raise ArchiveError(f"no trace column {unknown}; there are {', '.join(SCHEMA.names)}")
    loaded = list(dict.fromkeys(["group_id", *wanted]))  # the id tells what was read before
    return (table.select(wanted) for _, table in _tables(directory, loaded))


def journal_tables(directory: Path) -> Iterator[tuple[Path, pa.Table]]:
    """The rows of each group that is in a journal still, with the journal, without those of deleted
    videos. Raises ArchiveError."""
    deletions = read_deletions(directory)
    for path in journals(directory).values():
        for table in _journaled(path):
            yield path, deletions.kept(table)


def _groups(
    directory: Path, purpose: Purpose | None, policy_version: PolicyVersion | None
) -> Iterator[TraceGroup]:
    for path, table in _tables(directory, SCHEMA.names):
        if purpose is not None:
            table = table.filter(pc.equal(table["purpose"], purpose.value))
        if policy_version is not None:
            table = table.filter(pc.equal(table["attempt"], policy_version.attempt))
            table = table.filter(pc.equal(table["step"], policy_version.step))
        yield from groups_in(table, source=str(path))


def _tables(directory: Path, columns: list[str]) -> Iterator[tuple[Path, pa.Table]]:
    """Tables of rows, each group once, each with the file that it is from."""
    # Journals first: a group that is compacted meanwhile is then met twice, never missed.
    journaled = list(journal_tables(directory))
    seen: dict[int, set[str]] = {}
    for path, _, table in scan(directory, columns):
        known = seen.setdefault(name_of(path).attempt, set())
        fresh = _without(table, known)
        known.update(_ids(fresh))
        yield path, fresh
    for path, table in journaled:
        yield path, _without(table.select(columns), seen.get(attempt_of(path), set()))


def _journaled(path: Path) -> list[pa.Table]:
    try:
        return list(read_journal(path))
    except FileNotFoundError:
        return []  # recovered since we listed it: its groups are in Parquet


def _without(table: pa.Table, known: Set[str]) -> pa.Table:
    met = [name for name in _ids(table) if name in known]
    if not met:
        return table
    return table.filter(pc.invert(pc.is_in(table["group_id"], pa.array(sorted(met), pa.string()))))


def _ids(table: pa.Table) -> list[str]:
    ids: list[str] = pc.unique(table["group_id"]).to_pylist()
    return ids


def recover(directory: Path, attempt: int, *, keep: bool = False) -> None:
    """Compact the journal that a dead attempt left, then remove it, or empty it (``keep``), so that
    its number is not given again. Raises ArchiveError."""
    path = directory / f"journal-{attempt}.bin"
    with naming(f"cannot recover the journal {path} (its groups are kept)"):
        step = max((pc.max(table["step"]).as_py() for table in read_journal(path)), default=0)
        _compact(directory, attempt, step, _compacted_ids(directory, attempt))
        if keep and not isinstance(path, RemotePath):
            os.close(empty_journal(path))
            sync_to_disk(directory)
        else:
            path.unlink()
            sync_to_disk(directory)


def _compact(directory: Path, attempt: int, step: int, known: Set[str]) -> Path | None:
    """Write the journaled groups that are not ``known`` to be in Parquet; the journal stays."""
    journal = directory / f"journal-{attempt}.bin"
    tables = filter(len, (_without(table, known) for table in read_journal(journal)))
    with naming(f"cannot compact {journal} into {directory / 'traces'} (it keeps its groups)"):
        first = next(tables, None)
        if first is None:
            return None
        path = free_path(directory, attempt, step)
        write_parquet(path, itertools.chain([first], tables))
        return path


def _compacted_ids(directory: Path, attempt: int) -> set[str]:
    tables = scan(directory, ["group_id"], attempt, Deletions())  # hidden ones are there, too
    return {name for *_, table in tables for name in _ids(table)}


def journals(directory: Path) -> dict[int, Path]:
    """The journals of an archive by attempt, oldest first."""
    paths = [path for path in directory.glob("journal-*") if _JOURNAL_NAME.fullmatch(path.name)]
    return dict(sorted((attempt_of(path), path) for path in paths))


def attempt_of(journal: Path) -> int:
    """The attempt whose journal a file is, by its name."""
    return int(journal.stem.removeprefix("journal-"))


def _require(directory: Path) -> None:
    if not directory.is_dir():
        raise ArchiveError(f"there is no trace archive at {directory}; give the directory of a run")
