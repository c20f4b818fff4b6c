"""Reader of single archived groups by their ids, in bounded memory.

    archive -> GroupReader.find -> id -> where it lies -> group(id) -> TraceGroup

Only files of the archive are read, which never change once they have their names: the journal of an
attempt that goes on is compacted before its groups are asked for. A group whose file was merged
since is looked up again. Ids are held in memory, rows only of the parts that were read last: groups
are asked for in about the order of writing.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, overload

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.deletion import Deletions
from wire.archive.parquet_files import name_of, row_groups, scan
from wire.archive.trace_groups import groups_in
from wire.archive.trace_rows import SCHEMA, group_starts
from wire.errors import ArchiveError
from wire.types import FailureKind, PolicyVersion, TraceGroup

_HELD_BYTES = 64 << 20  # rows in memory
_LOOKUPS = 5  # a compaction may go on between a look-up and the reading
_NO_FAULT = (None, FailureKind.NOT_APPLICABLE.value)
_INDEX = ["group_id", "attempt", "step", "group_failures", "trace_index", "failure_kind"]


class Place(NamedTuple):
    """Part of the archive that holds a group."""

    path: Path
    row_group: int


class Indexed(NamedTuple):
    """What an archive's index says of a group."""

    group_id: str
    version: PolicyVersion
    num_traces: int
    num_failures: int
    """Of the group and of its single traces, but those that no reward judges."""
    place: Place


def index_groups(directory: Path, prefix: str) -> Iterator[Indexed]:
    """Look up the groups in Parquet files whose ids begin with ``prefix``, oldest attempt first.
    Raises ArchiveError."""
    for path, number, table in scan(directory, _INDEX):
        rows = table.filter(pc.starts_with(table["group_id"], prefix))
        yield from _indexed(rows, Place(path, number))


class _Part(NamedTuple):
    """Rows of a place, and the first and the end of each group's."""

    rows: pa.Table
    spans: Mapping[str, tuple[int, int]]


class GroupReader:
    """Reader of archived groups at known places. Threads may share it."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        """``places``: by group id."""
        self._places = dict(places)
        self._held: OrderedDict[Place, _Part] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, group_id: str) -> bool:
        return group_id in self._places

    def group(self, group_id: str) -> TraceGroup:
        """Read a group, as it was written. Raises ArchiveError, and KeyError for an unknown id."""
        for _ in range(_LOOKUPS):
            place = self._places[group_id]
            own = self._own(place, group_id)
            if own is not None:
                (group,) = groups_in(own, source=f"{place.path}, group {group_id}")
                return group
            self._look_up_again(group_id, place)
        raise ArchiveError(
            f"group {group_id!r} was in {place.path} and is in no file of the archive any more: it "
            "was deleted, or files were moved away; restore them, or start again"
        )

    def _own(self, place: Place, group_id: str) -> pa.Table | None:
        """Rows of a group; None if they are at this place no longer."""
        try:
            held = self._part(place)
        except FileNotFoundError:
            return None
        start, end = held.spans.get(group_id, (0, 0))
        return held.rows.slice(start, end - start) if end else None

    def _look_up_again(self, group_id: str, place: Place) -> None:
        """Find the groups of an attempt whose files were merged."""
        attempt = name_of(place.path).attempt
        with self._lock:
            if self._places[group_id] != place:
                return  # another thread has
            # deleted ones too: a run may go on with what it had begun with
            tables = scan(place.path.parents[1], ["group_id"], attempt, Deletions())
            for path, number, table in tables:
                for name in set(table["group_id"].to_pylist()) & self._places.keys():
                    if name_of(self._places[name].path).attempt == attempt:
                        self._places[name] = Place(path, number)

    def _part(self, place: Place) -> _Part:
        with self._lock:
            if place not in self._held:
                read = list(row_groups(place.path, SCHEMA.names, number=place.row_group))
                self._held[place] = _part(read[0] if read else SCHEMA.empty_table())
                while len(self._held) > 1 and _num_bytes(self._held) > _HELD_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(place)
            return self._held[place]


def read_newest(directory: Path, name: str, wanted: Set[str]) -> GroupReader:
    """A reader of the groups of a stage or arm with the ids ``wanted``: of each the newest.
    Raises ArchiveError."""
    groups = index_groups(directory, f"{name}/")
    return GroupReader({g.group_id: g.place for g in groups if g.group_id in wanted})


class GroupsOnDisk(Sequence[TraceGroup]):
    """Archived groups in a given order, read when they are asked for."""

    def __init__(self, reader: GroupReader, ids: Sequence[str]) -> None:
        self._reader, self._ids = reader, ids
        self._last: tuple[str, TraceGroup] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> TraceGroup: ...
    @overload
    def __getitem__(self, index: slice) -> list[TraceGroup]: ...
    def __getitem__(self, index: int | slice) -> TraceGroup | list[TraceGroup]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        group_id, last = self._ids[index], self._last
        if last is None or last[0] != group_id:  # its traces are asked for one after another
            last = self._last = (group_id, self._reader.group(group_id))
        return last[1]


def _indexed(rows: pa.Table, place: Place) -> Iterator[Indexed]:
    held: Indexed | None = None
    columns = [rows[name].to_pylist() for name in _INDEX]
    for group_id, attempt, step, failures, trace_index, failure in zip(*columns, strict=True):
        if held is None or held.group_id != group_id:
            if held is not None:
                yield held
            version = PolicyVersion(attempt=attempt, step=step)
            held = Indexed(group_id, version, 0, len(failures), place)
        held = held._replace(
            num_traces=held.num_traces + (trace_index is not None),
            num_failures=held.num_failures + (failure not in _NO_FAULT),
        )
    if held is not None:
        yield held


def _part(rows: pa.Table) -> _Part:
    rows = rows.combine_chunks()
    starts = group_starts(rows)
    names = rows["group_id"].take(starts).to_pylist()
    return _Part(rows, dict(zip(names, pairwise([*starts.tolist(), len(rows)]), strict=True)))


def _num_bytes(parts: Mapping[Place, _Part]) -> int:
    return sum(part.rows.nbytes for part in parts.values())
