"""Garbage of an archive: files that killed runs and compactions left, and that no reader needs.

find_garbage -> each with its size and why it may go;  remove_garbage removes them
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wire.archive.archive import journals
from wire.archive.compaction import leftovers, recover_journals, stale_indexes
from wire.archive.journal import naming
from wire.archive.locks import compacting, without_writer
from wire.whole_file import sync_to_disk


class Garbage(NamedTuple):
    """A file that may go."""

    path: Path
    num_bytes: int
    why: str


def find_garbage(directory: Path, *, is_running: bool = False) -> list[Garbage]:
    """What may go now. What a run that writes here may need is left out; ``is_running``: there is
    one, whatever the lock shows. Raises ArchiveError."""
    with naming(f"cannot look through {directory}"), without_writer(directory) as is_alone:
        garbage = list(_garbage(directory, is_alone and not is_running))
        return [Garbage(path, path.stat().st_size, why) for path, why in garbage]


def remove_garbage(directory: Path, *, is_running: bool = False) -> None:
    """Remove it; journals of attempts that have ended are moved into Parquet first. Raises
    ArchiveError."""
    with compacting(directory), naming(f"cannot remove leftovers of {directory}"):
        with without_writer(directory) as is_alone:
            garbage = _garbage(directory, is_alone and not is_running)
            left = [path for path, why in garbage if why != _JOURNAL]
            for path in left:
                path.unlink(missing_ok=True)
        sync_to_disk(directory / "traces")
        if not is_running:
            recover_journals(directory)


_JOURNAL = "journal of an attempt that has ended; its groups are moved into a traces file"


def _garbage(directory: Path, is_alone: bool) -> Iterator[tuple[Path, str]]:
    for path in leftovers(directory):
        whole = path.suffix == ".parquet"
        yield path, "replaced by a merged file" if whole else "half of a merged file"
    for path in stale_indexes(directory):
        yield path, "index of a file that is no more"
    if not is_alone:
        return
    for path in sorted([*directory.glob("*.partial"), *(directory / "traces").glob("*.partial")]):
        yield path, "half of a file that a killed run was writing"
    held = journals(directory)
    for attempt, path in held.items():
        if attempt != max(held) or path.stat().st_size > _EMPTY_BYTES:
            yield path, _JOURNAL


_EMPTY_BYTES = 12  # of a journal without a group
