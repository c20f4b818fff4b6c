"""Search for one group by its id, through the archive's index: the other rows are not read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.index import browse
from wire.archive.journal import read_journal
from wire.archive.parquet_files import row_groups
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA
from wire.errors import ArchiveError, ConfigError
from wire.nearest import nearest
from wire.types import TraceGroup

_MAX_NAMED = 2000  # ids that the hint compares
_LOOKS = 10
_PLACE = ("file", "row_group")


def find_groups(directory: Path, group_id: str) -> list[TraceGroup]:
    """The groups of this id, one per attempt that wrote it, the newest last. Raises ConfigError
    with the nearest id if there is none, and ArchiveError."""
    own = pc.field("group_id") == group_id
    for _ in range(_LOOKS):
        places = browse(directory, _PLACE, own, limit=1 << 31).group_by(list(_PLACE)).aggregate([])
        if not places.num_rows:
            raise ConfigError(
                f"{directory} has no group {group_id!r}; {_hint(directory, group_id)}"
            )
        try:
            tables = [_rows(directory, **place).filter(own) for place in places.to_pylist()]
        except FileNotFoundError:  # merged meanwhile
            continue
        if all(table.num_rows for table in tables):  # else compacted out of the journal meanwhile
            return _groups(directory, tables)
    raise ArchiveError(f"files of {directory} go while they are read; try again")


def _rows(directory: Path, file: str, row_group: int | None) -> pa.Table:
    """Rows of a part of a traces file, or of a journal. Raises FileNotFoundError."""
    if row_group is None:
        tables = list(read_journal(directory / file))
    else:
        tables = list(row_groups(directory / "traces" / file, SCHEMA.names, number=row_group))
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _groups(directory: Path, tables: list[pa.Table]) -> list[TraceGroup]:
    groups = {
        group.policy_version.attempt: group
        for table in tables
        for group in groups_in(table.combine_chunks(), source=str(directory))
    }
    return [groups[attempt] for attempt in sorted(groups)]


def _hint(directory: Path, group_id: str) -> str:
    others = browse(directory, ["group_id"], limit=_MAX_NAMED)["group_id"].unique().to_pylist()
    near = nearest(group_id, others)
    some = f"some are: {', '.join(others[:5])}" if others else "it is empty"
    return near if near.startswith("did you") else some
