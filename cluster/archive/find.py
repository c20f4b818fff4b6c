"""Search for one group by its id, in journals and Parquet files, without reading the other rows."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.journal import read_journal
from wire.archive.parquet_files import parquet_files, row_groups
from wire.archive.trace_rows import SCHEMA, groups_in
from wire.errors import ConfigError
from wire.nearest import nearest
from wire.types import TraceGroup

_MAX_NAMED = 2000  # ids that the hint compares


def find_groups(directory: Path, group_id: str) -> list[TraceGroup]:
    """The groups of this id, one per attempt that wrote it, the newest last. Raises ConfigError
    with the nearest id if there is none, and ArchiveError."""
    groups: dict[int, TraceGroup] = {}
    known: dict[str, None] = {}
    for source, table in _places(directory, group_id, known):
        own = table.filter(pc.equal(table["group_id"], group_id)).combine_chunks()
        for group in groups_in(own, source=source):
            groups[group.policy_version.attempt] = group
    if not groups:
        hint = nearest(group_id, list(known)[:10], "some are")
        close = nearest(group_id, list(known)) if known else hint
        raise ConfigError(
            f"{directory} has no group {group_id!r}; {close if 'mean' in close else hint}"
        )
    return [groups[attempt] for attempt in sorted(groups)]


def _places(
    directory: Path, group_id: str, known: dict[str, None]
) -> Iterator[tuple[str, pa.Table]]:
    """Parts of the archive that hold the group, with their places; ids met go to ``known``."""
    journaled = list(_journaled(directory))  # first: what is compacted meanwhile is met twice
    for path in parquet_files(directory):
        for number, ids in enumerate(row_groups(path, ["group_id"])):
            if pc.index(ids["group_id"], group_id).as_py() >= 0:
                for table in row_groups(path, SCHEMA.names, number=number):
                    yield str(path), table
            elif len(known) < _MAX_NAMED:
                known.update(dict.fromkeys(ids["group_id"].unique().to_pylist()))
    for path, table in journaled:
        if table["group_id"][0].as_py() == group_id:
            yield str(path), table
        elif len(known) < _MAX_NAMED:
            known[table["group_id"][0].as_py()] = None


def _journaled(directory: Path) -> Iterator[tuple[Path, pa.Table]]:
    for path in sorted(directory.glob("journal-*.bin")):
        try:
            for table in read_journal(path):
                yield path, table
        except FileNotFoundError:  # recovered since: its groups are in Parquet
            continue
