"""JSON Lines: one trace, or one group with its traces, a line; strict JSON, numbers exact.

A number that is not finite, which JSON does not have, is null.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.archive.rows import json_rows
from wire.archive.trace_rows import SCHEMA, rows_of
from wire.strict_json import to_json
from wire.types import TraceGroup

GROUP_COLUMNS = SCHEMA.names[: SCHEMA.names.index("trace_index")]
"""Columns of the whole group."""


def write_jsonl(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """A line per trace; a group without traces is a line whose ``trace_index`` is null."""
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(to_json(row) + "\n" for row in json_rows(table))


def write_jsonl_groups(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """A line per group, its traces in a list; with a filter, those that it keeps."""
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(to_json(group) + "\n" for group in groups_of(json_rows(table)))


def groups_of(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Groups of rows that lie side by side."""
    for _, own in itertools.groupby(rows, key=lambda row: (row["attempt"], row["group_id"])):
        members = list(own)
        group = {name: members[0][name] for name in GROUP_COLUMNS}
        traces = [
            {name: value for name, value in row.items() if name not in group} for row in members
        ]
        yield {**group, "traces": [trace for trace in traces if trace["trace_index"] is not None]}


def group_json(group: TraceGroup, number: int | None = None) -> dict[str, Any]:
    """A group as a line of the export; with ``number``, of its traces only that one."""
    rows = rows_of(group)
    (line,) = groups_of(json_rows(rows if number is None else rows.slice(number, 1)))
    return line
