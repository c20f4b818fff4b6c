"""Search for one group by its id, in journals and Parquet files, without reading the other rows."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.archive import journals
from wire.archive.journal import read_journal
from wire.archive.parquet_files import row_groups, scan
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA
from wire.errors import ConfigError
from wire.nearest import nearest
from wire.types import TraceGroup

_MAX_NAMED = 2000  # ids that the hint compares


def find_groups(directory: Path, group_id: str) -> list[TraceGroup]:
    """The groups of this id, one per attempt that wrote it, the newest last. Raises ConfigError
    with the nearest id if there is none, and ArchiveError."""
    while True:
        try:
            return _find(directory, group_id)
        except FileNotFoundError:  # merged meanwhile
            continue


def _find(directory: Path, group_id: str) -> list[TraceGroup]:
    groups: dict[int, TraceGroup] = {}
    others: dict[str, None] = {}
    for source, table in _places(directory, group_id, others):
        own = table.filter(pc.equal(table["group_id"], group_id)).combine_chunks()
        for group in groups_in(own, source=source):
            groups[group.policy_version.attempt] = group
    if not groups:
        raise ConfigError(f"{directory} has no group {group_id!r}; {_hint(group_id, list(others))}")
    return [groups[attempt] for attempt in sorted(groups)]


def _hint(group_id: str, others: list[str]) -> str:
    near = nearest(group_id, others)
    return near if near.startswith("did you") else f"some are: {', '.join(others[:5])}"


def _places(
    directory: Path, group_id: str, others: dict[str, None]
) -> Iterator[tuple[str, pa.Table]]:
    """Parts of the archive that hold the group, with their places; ids of others go to
    ``others``."""
    journaled = list(_journaled(directory))  # first: what is compacted meanwhile is met twice
    for path, number, ids in scan(directory, ["group_id"]):
        if pc.index(ids["group_id"], group_id).as_py() >= 0:
            for table in row_groups(path, SCHEMA.names, number=number):
                yield str(path), table
        elif len(others) < _MAX_NAMED:
            others.update(dict.fromkeys(ids["group_id"].unique().to_pylist()))
    for path, table in journaled:
        if pc.index(table["group_id"], group_id).as_py() >= 0:
            yield str(path), table
        elif len(others) < _MAX_NAMED:
            others.update(dict.fromkeys(table["group_id"].unique().to_pylist()))


def _journaled(directory: Path) -> Iterator[tuple[Path, pa.Table]]:
    for path in journals(directory).values():
        try:
            for table in read_journal(path):
                yield path, table
        except FileNotFoundError:  # recovered since: its groups are in Parquet
            continue
