"""Traces of archives for the service: counts, pages that a filter keeps, and one trace whole.

    archive -> summary(name), page(name, where, limit, cursor), trace(name, id)

A page goes by the archive's index, so that it reads no text and no tokens; a filter on one of
those reads the rows up to the page. A trace's id is ``ATTEMPT.NUMBER.GROUP``, with ``-`` as the
number of a group without traces. An archive may grow meanwhile: what was listed keeps its place.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrate.service.protocols import TracePage
from cluster.archive.export.jsonl import group_json
from cluster.archive.find import find_groups
from cluster.archive.place import archive_directory
from cluster.archive.rows import page, plain_rows
from cluster.archive.summary import to_plain, written
from cluster.archive.where import parse_where
from wire.archive.index import summarise
from wire.archive.index_files import INDEX_SCHEMA
from wire.errors import ConfigError, DataError
from wire.nearest import nearest
from wire.types import TraceGroup

COLUMNS = [name for name in INDEX_SCHEMA.names if name != "row_group"]
"""Columns of a page's rows, beside the trace's ``id``."""
_ID = re.compile(r"(\d{1,9})\.(\d{1,9}|-)\.(.+)", re.DOTALL)
_MAX_OFFSET = 1 << 40
_MAX_CURSOR = 200


class ArchiveTraces:
    """Browser of trace archives by name; a TraceBrowser."""

    def __init__(self, archives: Mapping[str, Path]) -> None:
        self._archives = dict(archives)

    def names(self) -> list[str]:
        """Names of the archives, in the order that they were given."""
        return list(self._archives)

    def summary(self, archive: str) -> dict[str, Any]:
        """Counts of an archive by attempt, purpose, split and label. Raises DataError for an
        unknown one, ArchiveError."""
        directory = self._directory(archive)
        summary = summarise(directory)
        times = written(directory)
        return {
            "name": archive,
            "groups": sum(count.groups for count in summary.counts),
            "traces": sum(count.traces for count in summary.counts),
            "failed": sum(count.failed for count in summary.counts),
            "tokens": sum(count.tokens for count in summary.counts),
            "files": summary.num_files,
            "bytes": summary.num_bytes,
            "written": None if times is None else list(times),
            "counts": [to_plain(count) for count in summary.counts],
        }

    def page(self, archive: str, where: Sequence[str], limit: int, cursor: str | None) -> TracePage:
        """Traces of an archive that meet all conditions, in the order of writing. Raises DataError
        for an unknown archive, column or cursor, ArchiveError."""
        directory = self._directory(archive)
        offset = _offset(cursor, archive, where)
        try:
            conditions = parse_where(where)
        except ConfigError as error:
            raise DataError(str(error).replace("--where ", "where=")) from error
        table = page(directory, COLUMNS, conditions, offset=offset, limit=limit + 1)
        rows = plain_rows(table.slice(0, limit))
        has_more = table.num_rows > limit
        return TracePage(
            rows=[{"id": _id_of_row(row), **row} for row in rows],
            next_cursor=_cursor(offset + limit, archive, where) if has_more else None,
        )

    def trace(self, archive: str, trace_id: str) -> dict[str, Any]:
        """One trace, whole: its prompt, its answer and reward, and in ``group`` the ids of the
        answers that it was compared with. Raises DataError if there is none, ArchiveError."""
        directory = self._directory(archive)
        match = _ID.fullmatch(trace_id)
        if match is None:
            raise DataError(
                f"{trace_id!r} is no id of a trace; take one of a listed trace, such as "
                "0.3.grpo/train/clip-1"
            )
        attempt, number, group_id = match.groups()
        group = _group_of(directory, group_id, int(attempt))
        wanted = None if number == "-" else int(number)
        if wanted not in (range(len(group.traces)) if group.traces else (None,)):
            raise DataError(
                f"group {group_id!r} has {len(group.traces)} traces, numbered from 0; got {number}"
            )
        return _whole(group, wanted)

    def _directory(self, archive: str) -> Path:
        if archive not in self._archives:
            raise DataError(
                f"there is no archive {archive!r}; {nearest(archive, self.names(), 'there are')}"
            )
        try:
            return archive_directory(self._archives[archive])
        except ConfigError as error:
            raise DataError(f"archive {archive!r} cannot be opened: {error}") from error


def _group_of(directory: Path, group_id: str, attempt: int) -> TraceGroup:
    try:
        groups = find_groups(directory, group_id)
    except ConfigError as error:
        raise DataError(f"there is no group {group_id!r}; list the archive's traces") from error
    for group in groups:
        if group.policy_version.attempt == attempt:
            return group
    attempts = [group.policy_version.attempt for group in groups]
    raise DataError(f"attempt {attempt} has no group {group_id!r}; {attempts} have")


def _whole(group: TraceGroup, number: int | None) -> dict[str, Any]:
    lines = group_json(group)
    traces = lines.pop("traces")
    attempt = lines["attempt"]
    shown = ("trace_index", "reward", "finish_reason", "failure_kind")
    return {
        "id": _id(attempt, number, group.group_id),
        **lines,
        **({} if number is None else traces[number]),
        "group": [
            {
                "id": _id(attempt, trace["trace_index"], group.group_id),
                "num_tokens": len(trace["token_ids"]),
                **{name: trace[name] for name in shown},
            }
            for trace in traces
        ],
    }


def _id_of_row(row: Mapping[str, Any]) -> str:
    return _id(row["attempt"], row["trace_index"], row["group_id"])


def _id(attempt: int, number: int | None, group_id: str) -> str:
    return f"{attempt}.{'-' if number is None else number}.{group_id}"


def _cursor(offset: int, archive: str, where: Sequence[str]) -> str:
    text = json.dumps([offset, _listing(archive, where)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _offset(cursor: str | None, archive: str, where: Sequence[str]) -> int:
    """Raises DataError for a cursor of another listing."""
    if cursor is None:
        return 0
    short = cursor[:_MAX_CURSOR]  # a long one might nest deeper than JSON's parser goes
    try:
        offset, listing = json.loads(base64.urlsafe_b64decode(short + "=" * (-len(short) % 4)))
    except (ValueError, TypeError):
        offset, listing = None, None
    if not isinstance(offset, int) or not 0 <= offset < _MAX_OFFSET:
        raise DataError(f"{cursor!r} is no cursor; give the next_cursor of a page, or none")
    if listing != _listing(archive, where):
        raise DataError("the cursor is of another archive or filter; begin without one")
    return offset


def _listing(archive: str, where: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([archive, *where]).encode()).hexdigest()[:16]
