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

import pyarrow as pa

from wire.archive.archive import journals, recover
from wire.archive.index_files import index_path, is_indexed, write_index
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
"""Called with the bytes that are done, and all that are to be read."""


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
    has_writer: bool
    """A run is writing: journals are left to it."""


def compact_archive(
    directory: Path, target_bytes: int = TARGET_BYTES, progress: Progress | None = None
) -> Compaction:
    """Merge the files of each attempt, in order, into files of about ``target_bytes``, and write
    those of older schemas anew.

    Raises ArchiveError, naming the file, if one is damaged, if the disk is full or if another
    compaction goes on; nothing is lost then, and the next compaction goes on from there.
    """
    if not (directory / "traces").is_dir():
        raise ArchiveError(f"there is no trace archive at {directory}; give the directory of a run")
    with compacting(directory), naming(f"cannot compact {directory} (nothing is lost)"):
        remove_leftovers(directory)
        recovered = _recover_journals(directory)
        before = {path: path.stat().st_size for path in parquet_files(directory)}
        jobs = list(_plan(before, target_bytes))
        total = sum(before[path] for job in jobs for path in job)
        old = sum(not is_current(path) for job in jobs for path in job)
        done = 0
        for job in jobs:
            _merge(directory, job)
            done += sum(before[path] for path in job)
            if progress is not None:
                progress(done, total)
        for path in parquet_files(directory):
            if not is_indexed(directory, path):
                write_index(directory, path)
        after = [path.stat().st_size for path in parquet_files(directory)]
    return Compaction(
        files_before=len(before),
        files_after=len(after),
        bytes_before=sum(before.values()),
        bytes_after=sum(after),
        migrated=old,
        recovered=len(recovered or ()),
        has_writer=recovered is None,
    )


def leftovers(directory: Path) -> list[Path]:
    """Files that a killed compaction left: half of a merged file, files that a merged one
    replaces."""
    _, replaced = files_and_replaced(directory)
    return [*sorted((directory / "traces").glob(f"*{MERGING}")), *sorted(replaced)]


def remove_leftovers(directory: Path) -> None:
    """Remove them; the caller keeps other compactions out. Raises OSError."""
    left = leftovers(directory)
    for path in left:
        path.unlink()
    if left:  # on disk before a merged file that names them goes itself
        sync_to_disk(directory / "traces")


def _recover_journals(directory: Path) -> list[int] | None:
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


def _plan(sizes: dict[Path, int], target_bytes: int) -> Iterator[list[Path]]:
    """Files to merge, each list into one: neighbours of an attempt that are small, and any file of
    an old schema."""
    job: list[Path] = []
    for path, size in sizes.items():
        wanted = size < target_bytes / 2 or not is_current(path)
        fits = sum(sizes[other] for other in job) + size <= target_bytes
        if job and not (wanted and fits and name_of(job[0]).attempt == name_of(path).attempt):
            yield from _worth_it(job)
            job = []
        if wanted:
            job.append(path)
    yield from _worth_it(job)


def _worth_it(job: list[Path]) -> Iterator[list[Path]]:
    if len(job) > 1 or any(not is_current(path) for path in job):
        yield job


def _merge(directory: Path, files: Sequence[Path]) -> Path:
    """Write the rows of some files into one that replaces them, then remove them. Raises OSError
    and ArchiveError."""
    path = _merged_name(directory, files)
    write_parquet(path, _rows(files), replacing(files), suffix=MERGING)
    write_index(directory, path)
    for merged in files:
        merged.unlink()
        index_path(directory, merged).unlink(missing_ok=True)
    sync_to_disk(path.parent)
    return path


def _rows(files: Sequence[Path]) -> Iterator[pa.Table]:
    for path in files:
        yield from row_groups(path, SCHEMA.names)


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
