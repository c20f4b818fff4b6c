"""Compaction of an archive: merges its many small files into few large ones, and migrates old ones.

    files of an attempt, in order -> plan -> NAME-to=STEP-merge=1.parquet -> the merged are removed

    crash while            what it leaves                          what happens to that
    writing a merged file  a ``*.merging`` file                    removed by the next compaction
    removing the merged    files that another says it ``replaces`` left out by readers, removed next

Safe beside the run that writes and beside readers: only files that have their names are touched,
and a reader whose file has gone finds its groups in the merged one. One row group is in memory at a
time. One compaction at a time has the archive.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from wire.archive.archive import journals, recover
from wire.archive.deletion import COLUMNS, Deletions, read_deletions
from wire.archive.index_files import index_content, index_path, write_index
from wire.archive.journal import naming, read_journal
from wire.archive.locks import compacting, without_writer
from wire.archive.parquet_files import (
    FileName,
    files_and_replaced,
    is_current,
    name_of,
    parquet_files,
    replacing,
    row_groups,
    write_parquet,
)
from wire.archive.trace_rows import SCHEMA
from wire.errors import ArchiveError
from wire.whole_file import sync_to_disk

TARGET_BYTES = 256 << 20
MERGING = ".merging"
"""Suffix of a merged file until it is whole; a run's own, ``.partial``, is the run's to remove."""

Progress = Callable[[int, int], None]
"""Called with the files that are merged, and all that are to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """Report of a compaction."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    migrated: int
    """Files of an older schema that were written anew."""
    recovered: int
    """Journals of dead attempts whose groups are in Parquet now."""
    removed: int
    """Rows of deleted videos that were removed."""
    has_writer: bool
    """A run is writing: its journal, and rows of deleted videos that it may read, are left."""


def compact_archive(
    directory: Path,
    target_bytes: int = TARGET_BYTES,
    progress: Progress | None = None,
    *,
    is_running: bool = False,
) -> Compaction:
    """Merge the files of each attempt, in order, into files of about ``target_bytes``, and write
    those of older schemas, and with rows of deleted videos, anew.

    ``is_running``: a run writes here although its lock may not show it, such as on another machine.
    Raises ArchiveError, naming the file, if one is damaged, if the disk is full or if another
    compaction goes on; nothing is lost then, and the next compaction goes on from there.
    """
    if not (directory / "traces").is_dir():
        raise ArchiveError(f"there is no trace archive at {directory}; give the directory of a run")
    with compacting(directory), naming(f"cannot compact {directory} (nothing is lost)"):
        remove_leftovers(directory)
        recovered = None if is_running else recover_journals(directory)
        has_writer = recovered is None
        hidden = Deletions() if has_writer else read_deletions(directory)
        sizes = {path: path.stat().st_size for path in parquet_files(directory)}
        deleted = {path: number for path in sizes if (number := _count_deleted(path, hidden))}
        old = {path for path in sizes if not is_current(path)}
        jobs = list(_plan(sizes, target_bytes, old | deleted.keys()))
        total, done = sum(map(len, jobs)), 0
        if progress is not None and jobs:
            progress(0, total)
        for job in jobs:
            _merge(directory, job, hidden)
            done += len(job)
            if progress is not None:
                progress(done, total)
        files = parquet_files(directory)
        for path in files:
            if index_content(directory, path) is None:
                write_index(directory, path)
        remove_stale_indexes(directory)
    return Compaction(
        files_before=len(sizes),
        files_after=len(files),
        bytes_before=sum(sizes.values()),
        bytes_after=sum(path.stat().st_size for path in files),
        migrated=len(old),
        recovered=len(recovered or ()),
        removed=sum(deleted.values()),
        has_writer=has_writer,
    )


def leftovers(directory: Path) -> list[Path]:
    """Files that a killed compaction left: half of a merged file, files that a merged one
    replaces."""
    _, replaced = files_and_replaced(directory)
    return [*sorted((directory / "traces").glob(f"*{MERGING}")), *sorted(replaced)]


def stale_indexes(directory: Path) -> list[Path]:
    """Index files without a traces file, and halves of index files."""
    names = {path.name for path in parquet_files(directory)}
    return sorted(path for path in (directory / "index").glob("*") if path.name not in names)


def remove_stale_indexes(directory: Path) -> None:
    """Remove them; the caller keeps other compactions out. Raises OSError."""
    for path in stale_indexes(directory):
        path.unlink()


def remove_leftovers(directory: Path) -> None:
    """Remove them; the caller keeps other compactions out. Raises OSError."""
    left = leftovers(directory)
    for path in left:
        path.unlink()
    if left:  # on disk before a merged file that names them goes itself
        sync_to_disk(directory / "traces")


def recover_journals(directory: Path) -> list[int] | None:
    """Move the groups of dead attempts' journals into Parquet; None if a run is writing, whose
    opening has done so."""
    with without_writer(directory) as is_alone:
        if not is_alone:
            return None
        there = journals(directory)
        held = [number for number, path in there.items() if any(True for _ in read_journal(path))]
        for number in there:
            recover(directory, number, keep=number == max(there))
        return held


def _plan(sizes: dict[Path, int], target_bytes: int, worn: set[Path]) -> Iterator[list[Path]]:
    """Files to merge, each list into one: neighbours of an attempt that are small, and any that is
    ``worn``, so that it has to be written anew."""
    job: list[Path] = []
    for path, size in sizes.items():
        wanted = size < target_bytes / 2 or path in worn
        fits = sum(sizes[other] for other in job) + size <= target_bytes
        if job and not (wanted and fits and name_of(job[0]).attempt == name_of(path).attempt):
            yield from _worth_it(job, worn)
            job = []
        if wanted:
            job.append(path)
    yield from _worth_it(job, worn)


def _worth_it(job: list[Path], worn: set[Path]) -> Iterator[list[Path]]:
    if len(job) > 1 or worn.intersection(job):
        yield job


def _count_deleted(path: Path, deletions: Deletions) -> int:
    if not deletions:
        return 0
    masks = (deletions.deleted(table) for table in row_groups(path, COLUMNS))
    return sum(int(pc.sum(mask).as_py()) for mask in masks if mask is not None)


def _merge(directory: Path, files: Sequence[Path], deletions: Deletions) -> Path:
    """Write the rows of some files into one that replaces them, then remove them. Raises OSError
    and ArchiveError."""
    path = _merged_name(directory, files)
    rows = (table for file in files for table in row_groups(file, SCHEMA.names))
    write_parquet(path, map(deletions.kept, rows), replacing(files), suffix=MERGING)
    write_index(directory, path)
    for merged in files:
        merged.unlink()
        index_path(directory, merged).unlink(missing_ok=True)
    sync_to_disk(path.parent)
    return path


def _merged_name(directory: Path, files: Sequence[Path]) -> Path:
    names = [name_of(path) for path in files]
    first, merge = names[0], 1 + max(name.merge for name in names)
    to = max(name.last_step for name in names)
    while True:
        name = FileName(first.attempt, first.step, first.part, to, merge)
        path = directory / "traces" / str(name)
        if not path.exists():
            return path
        merge += 1
