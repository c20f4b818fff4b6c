"""Verification of an archive: every file and journal is read, and what is wrong is a finding.

verify_archive(directory, videos=20) -> findings: damage, doubled groups, tombstones, index
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wire.archive.archive import journals
from wire.archive.compaction import leftovers
from wire.archive.deletion import Deletions, base_address, file_hash, read_deletions
from wire.archive.index_files import index_content, index_path, index_rows
from wire.archive.journal import read_journal
from wire.archive.parquet_files import is_current, name_of, parquet_files, row_groups
from wire.archive.trace_rows import SCHEMA
from wire.errors import ArchiveError
from wire.finding import Area, Finding, error, from_error, ok, warning
from wire.remote_path import arrow_source
from wire.types import FailureKind, FinishReason, Purpose, Split

Progress = Callable[[int, int], None]
"""Called with the files that are read, and all."""
_COMPACT = "deepintuit archive compact"
_ALLOWED: dict[str, set[str | None]] = {
    "purpose": {one.value for one in Purpose},
    "split": {one.value for one in Split},
    "finish_reason": {None, *(one.value for one in FinishReason)},
    "failure_kind": {None, *(one.value for one in FailureKind)},
}


@dataclass(slots=True)
class _Read:
    """What was met on the way through the files."""

    findings: list[Finding] = field(default_factory=list)
    num_rows: int = 0
    ids: dict[int, dict[str, str]] = field(default_factory=dict)
    """File of each group, by attempt."""
    deleted: dict[str, int] = field(default_factory=dict)
    """Traces of deleted videos that are still there, by file."""
    videos: dict[str, str] = field(default_factory=dict)
    """Content hash by address."""
    old: list[str] = field(default_factory=list)
    index_faults: list[str] = field(default_factory=list)
    without_index: int = 0
    compared: int = 0
    """Indexes that were compared with their files."""


def verify_archive(
    directory: Path, videos: int = 0, progress: Progress | None = None
) -> list[Finding]:
    """Read all of an archive and return what is wrong with it, and what was checked.

    ``videos``: how many of its videos to hash and compare. Raises ArchiveError for a directory that
    is not there.
    """
    if not directory.is_dir():
        raise ArchiveError(f"there is no trace archive at {directory}; give the directory of a run")
    read = _Read()
    deletions = Deletions()
    with _collecting(read):
        deletions = read_deletions(directory)
    files: list[Path] = []
    with _collecting(read):
        files = parquet_files(directory)
    held = journals(directory)
    for number, path in enumerate([*files, *held.values()], start=1):
        with _collecting(read):
            if path.suffix == ".parquet":
                _read_file(directory, path, deletions, read)
            else:
                _read_journal(path, int(path.stem.rpartition("-")[2]), deletions, read)
        if progress is not None:
            progress(number, len(files) + len(held))
    is_sound = not read.findings
    what = f"{len(files)} files and {len(held)} journals, {read.num_rows} rows"
    if is_sound:
        read.findings.append(ok(Area.ARCHIVE, f"read and sound: {what}; each group is there once"))
    read.findings += _of_deletions(directory, read, deletions, what)
    read.findings += _of_index(directory, files, read)
    read.findings += _of_leftovers(directory)
    if read.old:
        read.findings.append(
            warning(
                Area.ARCHIVE,
                f"{len(read.old)} files are of an older schema",
                f"{_COMPACT} writes them anew",
                read.old,
            )
        )
    if videos:
        read.findings += _of_videos(read.videos, videos)
    return read.findings


@contextmanager
def _collecting(read: _Read) -> Iterator[None]:
    try:
        yield
    except ArchiveError as fault:
        read.findings.append(from_error(Area.ARCHIVE, str(fault)))
    except FileNotFoundError as fault:
        read.findings.append(
            warning(
                Area.ARCHIVE,
                f"{fault.filename or fault} went while the archive was read: a run or a compaction "
                "is at work",
                "verify again when it has ended",
            )
        )


def _read_file(directory: Path, path: Path, deletions: Deletions, read: _Read) -> None:
    if not is_current(path):
        read.old.append(path.name)
    num_rows = 0
    for table in row_groups(path, SCHEMA.names):
        num_rows += table.num_rows
        _check_rows(path, name_of(path).attempt, table, read)
        _note(path, table, deletions, read)
    with pq.ParquetFile(arrow_source(path)) as file:
        if num_rows != file.metadata.num_rows:
            raise ArchiveError(f"{path} says it has {file.metadata.num_rows} rows, got {num_rows}")
    if index_content(directory, path) is None:
        read.without_index += 1
        return
    read.compared += 1
    index = pq.read_table(arrow_source(index_path(directory, path))).replace_schema_metadata()
    if not index.equals(index_rows(path)):
        read.index_faults.append(path.name)


def _read_journal(path: Path, attempt: int, deletions: Deletions, read: _Read) -> None:
    for table in read_journal(path):
        _check_rows(path, attempt, table, read, is_journal=True)
        _note(path, table, deletions, read)


def _check_rows(
    path: Path, attempt: int, table: pa.Table, read: _Read, *, is_journal: bool = False
) -> None:
    """Raise ArchiveError for rows that make no groups, and for a group that was met before."""
    ids = table["group_id"].combine_chunks()
    starts = np.flatnonzero([True, *pc.not_equal(ids[1:], ids[:-1]).to_pylist()])
    counts = np.diff([*starts, len(table)])
    place = np.arange(len(table)) - np.repeat(starts, counts)
    indices = table["trace_index"].to_numpy()
    alone = np.repeat(counts == 1, counts) & np.isnan(indices.astype(float))
    if not (alone | (indices.astype(float) == place)).all():
        raise ArchiveError(f"{path} holds groups whose traces are not numbered; restore it")
    for name, allowed in _ALLOWED.items():
        odd = set(table[name].unique().to_pylist()) - allowed
        if odd:
            raise ArchiveError(f"{path} holds {name} {sorted(map(str, odd))}; restore it")
    known = read.ids.setdefault(attempt, {})
    for group_id in ids.take(pa.array(starts, pa.int64())).to_pylist():
        before = known.get(group_id)
        if before is not None and not is_journal:  # a crash may leave a group in both
            raise ArchiveError(
                f"{path} holds group {group_id!r} of attempt {attempt}, as {before} does; "
                "move one of the files away"
            )
        known[group_id] = path.name
    read.num_rows += table.num_rows


def _note(path: Path, table: pa.Table, deletions: Deletions, read: _Read) -> None:
    """Keep what the later checks need."""
    deleted = deletions.deleted(table)
    if deleted is not None:
        number = int(pc.sum(deleted).as_py())
        read.deleted[path.name] = read.deleted.get(path.name, 0) + number
    pairs = table.select(["video", "video_hash"]).group_by(["video", "video_hash"]).aggregate([])
    for pair in pairs.to_pylist():
        if pair["video_hash"]:
            read.videos[base_address(pair["video"])] = pair["video_hash"]


def _of_deletions(
    directory: Path, read: _Read, deletions: Deletions, what: str
) -> Iterator[Finding]:
    if not deletions:
        return
    names = f"{len(deletions.hashes)} deleted videos"
    indexes = [
        path.name
        for path in sorted((directory / "index").glob("*.parquet"))
        if _index_has_deleted(path, deletions)
    ]
    for name in indexes:
        read.deleted.setdefault(f"index/{name}", 0)
    if read.deleted:
        yield error(
            Area.ARCHIVE,
            f"{sum(read.deleted.values())} rows of {names} are hidden but still in the files",
            f"{_COMPACT} removes them once no run writes here",
            [f"{name}: {number} rows" for name, number in read.deleted.items()],
        )
    else:
        yield ok(Area.ARCHIVE, f"no row of {names} is in any of {what}, nor in the index")


def _index_has_deleted(path: Path, deletions: Deletions) -> bool:
    try:
        return (
            deletions.deleted(pq.read_table(arrow_source(path), columns=["video", "video_hash"]))
            is not None
        )
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return False  # no index of ours


def _of_index(directory: Path, files: list[Path], read: _Read) -> Iterator[Finding]:
    if read.index_faults:
        yield error(
            Area.ARCHIVE,
            f"the index of {len(read.index_faults)} files has other rows than they have",
            f"remove {directory / 'index'}; {_COMPACT} makes it anew",
            read.index_faults,
        )
    elif files:
        rest = f"; {read.without_index} have none yet" if read.without_index else ""
        yield ok(
            Area.ARCHIVE,
            f"the index of {read.compared} files is equal to them{rest}",
        )


def _of_leftovers(directory: Path) -> Iterator[Finding]:
    try:
        left = leftovers(directory)
    except ArchiveError:
        return  # a foreign file, which has a finding
    if left:
        yield warning(
            Area.ARCHIVE,
            f"{len(left)} files, which no reader sees, are of a compaction that was killed, or "
            "that goes on now",
            "deepintuit archive gc --delete removes them if it was killed",
            [path.name for path in left],
        )


def _of_videos(hashes: dict[str, str], number: int) -> Iterator[Finding]:
    """Compare the files of some videos with their hashes; the same ones each time."""
    chosen = sorted(random.Random(0).sample(sorted(hashes), min(number, len(hashes))))
    now = {address: file_hash(address) for address in chosen}
    gone = [address for address, content in now.items() if content is None]
    other = [address for address, content in now.items() if content not in (None, hashes[address])]
    if not hashes:
        yield warning(
            Area.CLIPS, "no trace has its video's hash: nothing to compare", "new runs record it"
        )
    if gone:
        yield warning(
            Area.CLIPS,
            f"{len(gone)} of {len(chosen)} sampled videos are not there (any more)",
            "restore them, if the traces are to be looked at beside them",
            gone,
        )
    if other:
        yield error(
            Area.CLIPS,
            f"{len(other)} of {len(chosen)} sampled videos have another content than when they "
            "were answered",
            "restore them: traces and videos belong to each other by the hash",
            other,
        )
    if chosen and not gone and not other:
        yield ok(
            Area.CLIPS, f"{len(chosen)} of {len(hashes)} videos have the content that was answered"
        )
