"""Stores of archives: a local folder, or s3:// through fsspec, and copies from one to another.

    copy_archive(runs/demo/archive, s3://bucket/demo) -> deleted.json, journals, traces, index

Everything that reads, merges or verifies an archive takes either. A run writes its journal on a
local disk: its groups are on it before they are learned from, and an object store has no appending.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from wire.archive.archive import journals
from wire.archive.deletion import FILE
from wire.archive.index_files import index_path
from wire.archive.parquet_files import parquet_files
from wire.errors import ArchiveError
from wire.whole_file import sync_to_disk, whole_file

Progress = Callable[[int, int], None]
"""Called with the traces files that are copied, and all."""


def copy_archive(
    source: Path,
    target: Path,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Copy an archive, to or from a store too; also while a run writes: what it had acknowledged
    when the copy began is in it. Returns the new files.

    ``notes``: names of other files in it that go along, where they are there. Raises ArchiveError
    if there is something at the target, or a file has another size there.
    """
    if target.exists() and any(target.glob("*")):
        raise ArchiveError(f"{target} is not empty; give a place that is not there yet")
    # (what is deleted is hidden there from the beginning)
    first = [source / name for name in (FILE, *notes) if (source / name).exists()]
    # Then journals: a group that is compacted meanwhile is copied twice, never missed.
    first += journals(source).values()
    copied = [_copy(path, target / path.name) for path in first]
    done: set[Path] = set()
    while left := [path for path in parquet_files(source) if path not in done]:
        total = len(done) + len(left)
        for path in left:
            try:
                copied.append(_copy(path, target / "traces" / path.name))
            except FileNotFoundError:
                break  # merged meanwhile: its rows are in another file, which names it
            done.add(path)
            with suppress(FileNotFoundError):  # the rows are read from the file itself then
                copied.append(_copy(index_path(source, path), index_path(target, path)))
            if progress is not None:
                progress(len(done), total)
    return copied


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        source.open("rb") as read,
        whole_file(target, sync=True) as partial,
        partial.open("wb") as written,
    ):
        shutil.copyfileobj(read, written, 1 << 20)
        size = written.tell()
    sync_to_disk(target.parent)
    if target.stat().st_size != size:
        raise ArchiveError(f"{target} has {target.stat().st_size} bytes, {size} were written")
    return target
