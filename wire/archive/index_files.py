"""Index files of an archive: a small file per traces file, without tokens and texts.

    traces/NAME.parquet -> index/NAME.parquet: a row per trace, and their counts in the footer

An index names the file that it is of by a hash, so that an old one is never taken for that of a
file which has the same name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wire.archive.parquet_files import identity, row_groups
from wire.archive.trace_rows import SCHEMA
from wire.remote_path import arrow_source
from wire.types import FailureKind
from wire.whole_file import whole_file

_STORED = (
    "attempt",
    "step",
    "purpose",
    "split",
    "label",
    "sample_id",
    "video",
    "video_hash",
    "group_id",
    "prompt_version",
    "trace_index",
    "completion_attempt",
    "completion_step",
    "reward",
    "finish_reason",
    "failure_kind",
)
INDEX_SCHEMA = pa.schema(
    [SCHEMA.field(name) for name in _STORED if name in SCHEMA.names]
    + [pa.field("num_tokens", pa.int32()), pa.field("row_group", pa.int32())]
)
"""Of an index file. ``num_tokens``: sampled ones; ``row_group``: of the traces file, null in a
journal."""
READ_COLUMNS = [name for name in INDEX_SCHEMA.names if name in SCHEMA.names] + ["token_ids"]
"""Columns of a traces file that its index is made of."""
_VERSION = 1
_KEY = b"deepintuit.trace_index"
_ROWS = 1 << 16
COUNTED = ("attempt", "purpose", "split", "label")
"""Columns that counts are made by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Counts of the traces of one attempt, purpose, split and label."""

    attempt: int
    purpose: str
    split: str
    label: str
    groups: int
    traces: int
    failed: int
    """Traces whose scoring failed, and groups without a trace. Those that no reward judges have not
    failed."""
    tokens: int
    """Sampled ones."""
    scored: int
    reward_sum: float
    first_step: int
    last_step: int

    def __add__(self, other: "Count") -> "Count":
        total = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        return Count(
            attempt=self.attempt,
            purpose=self.purpose,
            split=self.split,
            label=self.label,
            first_step=min(self.first_step, other.first_step),
            last_step=max(self.last_step, other.last_step),
            **total,
        )


_ADDED = ("groups", "traces", "failed", "tokens", "scored", "reward_sum")


def index_path(directory: Path, traces: Path) -> Path:
    """Place of the index of a traces file."""
    return directory / "index" / traces.name


def write_index(directory: Path, traces: Path) -> Path:
    """Write the index of a traces file from its rows; it appears whole. Raises OSError and
    ArchiveError."""
    rows = index_rows(traces)
    path = index_path(directory, traces)
    content = {
        "version": _VERSION,
        "of": identity(traces),
        "counts": [_plain(one) for one in count_rows(rows)],
    }
    schema = INDEX_SCHEMA.with_metadata({_KEY: json.dumps(content).encode()})
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:
        pq.write_table(rows.cast(schema), file, compression="zstd", row_group_size=_ROWS)
    return path


def index_counts(index: Path) -> list[Count]:
    """Counts in an index file's footer. Raises OSError."""
    content = json.loads(pq.read_schema(arrow_source(index)).metadata[_KEY])
    return [Count(**count) for count in content["counts"]]


def index_rows(traces: Path) -> pa.Table:
    """The rows of a traces file as an index has them. Raises ArchiveError."""
    parts = [
        rows_for_index(table, number)
        for number, table in enumerate(row_groups(traces, READ_COLUMNS))
    ]
    return pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts])


def count_rows(rows: pa.Table) -> list[Count]:
    """Counts of rows of INDEX_SCHEMA, by attempt, purpose, split and label."""
    kinds = pc.fill_null(rows["failure_kind"], FailureKind.NOT_APPLICABLE.value)
    at_fault = pc.not_equal(kinds, FailureKind.NOT_APPLICABLE.value)
    failed = pc.or_(at_fault, rows["trace_index"].is_null())
    first = pc.equal(pc.fill_null(rows["trace_index"], 0), 0)
    table = rows.select([*COUNTED, "step", "trace_index", "reward", "num_tokens"])
    table = table.append_column("failed", pc.cast(failed, pa.int64()))
    table = table.append_column("first", pc.cast(first, pa.int64()))
    grouped = table.group_by(list(COUNTED)).aggregate(
        [
            ("first", "sum"),
            ("trace_index", "count"),
            ("failed", "sum"),
            ("num_tokens", "sum"),
            ("reward", "count"),
            ("reward", "sum"),
            ("step", "min"),
            ("step", "max"),
        ]
    )
    return [
        Count(
            **{name: row[name] for name in COUNTED},
            groups=row["first_sum"],
            traces=row["trace_index_count"],
            failed=row["failed_sum"],
            tokens=row["num_tokens_sum"] or 0,
            scored=row["reward_count"],
            reward_sum=row["reward_sum"] or 0.0,
            first_step=row["step_min"],
            last_step=row["step_max"],
        )
        for row in grouped.sort_by([(name, "ascending") for name in COUNTED]).to_pylist()
    ]


def _plain(one: Count) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Count.__slots__}


def index_content(directory: Path, traces: Path) -> dict[str, Any] | None:
    """Content of the footer of a file's index; None if there is no index, or another file's.
    Raises FileNotFoundError if there is no such traces file (any more)."""
    try:
        schema = pq.read_schema(arrow_source(index_path(directory, traces)))
        content: dict[str, Any] = json.loads((schema.metadata or {})[_KEY])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None  # half an index, or a foreign file: the next compaction replaces it
    is_own = content["version"] == _VERSION and content["of"] == identity(traces)
    return content if is_own else None


def rows_for_index(table: pa.Table, row_group: int | None) -> pa.Table:
    lengths = pc.cast(pc.list_value_length(table["token_ids"]), pa.int32())
    numbers = pa.array([row_group] * len(table), pa.int32())
    rows = table.append_column("num_tokens", lengths).append_column("row_group", numbers)
    return rows.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
