"""TraceGroup -> Arrow rows: one row per trace, the columns of its group repeated on each.

    TraceGroup -> packed -> (group: 1 row, traces: n rows) -> joined -> table of SCHEMA

A group without traces is one row whose ``trace_index`` is null. The way there and back
(wire/archive/trace_groups.py) is exact: rewards are float64, logprobs float32 as engines give them,
and a missing prompt, text or reward is null, never empty. To change a column, raise SCHEMA_VERSION:
both the journal and the Parquet files carry it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from wire.errors import ArchiveError
from wire.token_arrays import Logprobs, TokenIds
from wire.types import Score, Trace, TraceGroup

SCHEMA_VERSION = 5

_FAILURE = pa.struct(
    [("kind", pa.string()), ("culprit", pa.string()), ("reason", pa.string())],
)
_VERSION_CHANGE = pa.struct(
    [("first_token", pa.int32()), ("attempt", pa.int32()), ("step", pa.int64())],
)
_REWARD_PARTS = pa.map_(pa.string(), pa.float64())
_GROUP_FIELDS = [
    ("group_id", pa.string()),
    ("attempt", pa.int32()),
    ("step", pa.int64()),
    ("purpose", pa.string()),
    ("sample_id", pa.string()),
    ("video", pa.string()),
    ("label", pa.string()),
    ("split", pa.string()),
    ("sample_trace", pa.string()),
    ("sample_text", pa.string()),
    ("sample_extra", pa.string()),  # a JSON object
    ("prompt_token_ids", pa.list_(pa.int32())),
    ("clip_key", pa.string()),
    ("prompt_fingerprint", pa.string()),
    ("prompt_version", pa.string()),
    ("video_hash", pa.string()),
    ("window_start_s", pa.float64()),
    ("window_end_s", pa.float64()),
    ("frame_indices", pa.list_(pa.int32())),
    ("semantic_tokenizer", pa.string()),
    ("group_failures", pa.list_(_FAILURE)),
]
_TRACE_FIELDS = [
    ("trace_index", pa.int32()),
    ("token_ids", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float32())),
    ("text", pa.string()),
    ("finish_reason", pa.string()),
    ("completion_attempt", pa.int32()),
    ("completion_step", pa.int64()),
    ("reward", pa.float64()),
    ("reward_parts", _REWARD_PARTS),
    ("failure_kind", pa.string()),
    ("failure_culprit", pa.string()),
    ("failure_reason", pa.string()),
    ("logprobs_temperature", pa.float64()),
    ("version_changes", pa.list_(_VERSION_CHANGE)),
]
SCHEMA = pa.schema(_GROUP_FIELDS + _TRACE_FIELDS)
"""``attempt`` and ``step`` are the group's policy version, ``completion_*`` those of one answer."""
_IN_FILES = {
    # `datasets` opens no file with a map
    "reward_parts": pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())])),
}
FILE_SCHEMA = pa.schema(
    [field.with_type(_IN_FILES.get(field.name, field.type)) for field in SCHEMA]
)
"""SCHEMA as Parquet files hold it."""
GROUP_SCHEMA, TRACE_SCHEMA = pa.schema(_GROUP_FIELDS), pa.schema(_TRACE_FIELDS)

ARRAYS = ("prompt_token_ids", "frame_indices", "token_ids", "logprobs")
"""Columns of numbers that never become Python's."""
_SINCE_5 = {"version_changes"}
_SINCE_4 = _SINCE_5 | {"semantic_tokenizer"}
_SINCE_3 = _SINCE_4 | {"video_hash", "window_start_s", "window_end_s", "frame_indices"}
_BEFORE_3 = {"logprobs": pa.list_(pa.float64())}  # of float32


def _schema_before_3(lacking: set[str]) -> pa.Schema:
    fields = [field for field in SCHEMA if field.name not in lacking]
    return pa.schema([field.with_type(_BEFORE_3.get(field.name, field.type)) for field in fields])


SCHEMAS: Mapping[int, pa.Schema] = {
    1: _schema_before_3(_SINCE_3 | {"logprobs_temperature"}),
    2: _schema_before_3(_SINCE_3),
    3: pa.schema([field for field in FILE_SCHEMA if field.name not in _SINCE_4]),
    4: pa.schema([field for field in FILE_SCHEMA if field.name not in _SINCE_5]),
    5: FILE_SCHEMA,
}
"""The schema of the Parquet files of each version that can be read."""


class Packed(NamedTuple):
    """Rows of one group, its own columns once."""

    group: pa.RecordBatch
    """One row of GROUP_SCHEMA."""
    traces: pa.RecordBatch
    """A row of TRACE_SCHEMA for each trace."""


def packed(group: TraceGroup) -> Packed:
    """The rows of one group, in the order of its traces.

    Raises ArchiveError for a value that no column can hold: a token id beyond 32 bits, text that is
    not valid Unicode, a manifest column that is not JSON.
    """
    prompt = group.prompt
    completions = [trace.completion for trace in group.traces]
    try:
        frames = TokenIds(prompt.frame_indices) if prompt and prompt.frame_indices else None
        return Packed(
            _batch(
                GROUP_SCHEMA,
                _PLAIN_GROUP,
                [_group_row(group)],
                prompt_token_ids=_lists([prompt.token_ids if prompt else None], pa.int32()),
                frame_indices=_lists([frames], pa.int32()),
            ),
            _batch(
                TRACE_SCHEMA,
                _PLAIN_TRACE,
                [_trace_row(index, trace) for index, trace in enumerate(group.traces)],
                token_ids=_lists([one.token_ids for one in completions], pa.int32()),
                logprobs=_lists([one.logprobs for one in completions], pa.float32()),
            ),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(
            f"group {group.group_id!r} of sample {group.sample.id!r} cannot be archived: {error}; "
            "nothing was written for it"
        ) from error


def joined(parts: Sequence[Packed]) -> pa.Table:
    """The rows of some groups, one after another: a table of SCHEMA."""
    groups = pa.Table.from_batches([part.group for part in parts], GROUP_SCHEMA)
    traces = pa.Table.from_batches([part.traces for part in parts], TRACE_SCHEMA)
    counts = np.array([part.traces.num_rows for part in parts], np.int64)
    rows = np.repeat(np.arange(len(parts)), np.maximum(counts, 1))
    if not counts.all():
        is_trace = counts[rows] > 0
        traces = traces.take(pa.array(np.cumsum(is_trace) - 1, mask=~is_trace))
    columns = [*groups.combine_chunks().take(rows).columns, *traces.combine_chunks().columns]
    return pa.table(columns, schema=SCHEMA)


def split_up(rows: pa.Table) -> Packed:
    """The inverse of ``joined`` for the rows of one group."""
    traces = rows.select(TRACE_SCHEMA.names).filter(rows["trace_index"].is_valid())
    return Packed(_record_batch(rows.select(GROUP_SCHEMA.names)[:1]), _record_batch(traces))


def rows_of(group: TraceGroup) -> pa.Table:
    """The rows of one group: a table of SCHEMA with at least one row. Raises ArchiveError."""
    return joined([packed(group)])


def group_id_of(table: pa.Table) -> str:
    """The id of the first group in ``table``."""
    return str(table["group_id"][0])


def group_starts(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The row at which each group begins, of whole groups side by side."""
    index = table["trace_index"].fill_null(0).to_numpy()
    return np.flatnonzero(index == 0)


def version_of(schema: pa.Schema) -> int | None:
    """The newest version whose columns these are; None: of no version that is read here."""
    matching = [version for version, own in SCHEMAS.items() if schema.equals(own)]
    return max(matching, default=None)


def upgraded(table: pa.Table, columns: Iterable[str] = tuple(SCHEMA.names)) -> pa.Table:
    """These columns of a file's rows of any version, as SCHEMA has them; those of later versions
    null."""
    return pa.table({name: _upgraded(table, name) for name in columns})


def journal_schemas(version: int) -> tuple[pa.Schema, pa.Schema]:
    """The schemas of a group's own columns and of its traces in journals of a version since 3."""
    held = SCHEMAS[version].names
    group, traces = (
        pa.schema([field for field in schema if field.name in held])
        for schema in (GROUP_SCHEMA, TRACE_SCHEMA)
    )
    return group, traces


def upgraded_batch(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of a journal of any version since 3, as ``schema`` (GROUP_SCHEMA, TRACE_SCHEMA) has
    them."""
    if rows.schema.equals(schema):
        return rows
    return _record_batch(upgraded(pa.Table.from_batches([rows]), schema.names))


def check_version(path: Path, version: int) -> None:
    """Raise ArchiveError unless ``version``, that of the file at ``path``, is read here."""
    if version not in SCHEMAS:
        advice = "update DeepIntuit" if version > SCHEMA_VERSION else "use the older program"
        raise ArchiveError(
            f"{path} has trace schema version {version}, but this program reads version "
            f"{SCHEMA_VERSION}; {advice}"
        )


def _upgraded(table: pa.Table, name: str) -> pa.ChunkedArray:
    kind = SCHEMA.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    if column.type == kind:
        return column
    if name == "reward_parts":
        return pa.chunked_array([_map_of(chunk) for chunk in column.chunks], kind)
    return column.cast(kind)


def _map_of(pairs: pa.ListArray) -> pa.MapArray:
    parts = pairs.values.field("key"), pairs.values.field("value")
    return pa.MapArray.from_arrays(pairs.offsets, *parts, mask=pairs.is_null())


def _record_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [pa.concat_arrays([pa.array([], c.type), *c.chunks]) for c in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _plain(schema: pa.Schema) -> pa.StructType:
    return pa.struct([field for field in schema if field.name not in ARRAYS])


_PLAIN_GROUP, _PLAIN_TRACE = _plain(GROUP_SCHEMA), _plain(TRACE_SCHEMA)


def _batch(
    schema: pa.Schema, plain: pa.StructType, rows: list[dict[str, Any]], **arrays: pa.Array
) -> pa.RecordBatch:
    """One conversion for all plain columns: a group has thirty."""
    columns = dict(zip((f.name for f in plain), pa.array(rows, plain).flatten(), strict=True))
    columns |= arrays
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _group_row(group: TraceGroup) -> dict[str, Any]:
    sample, prompt = group.sample, group.prompt
    row = {
        "group_id": group.group_id,
        "attempt": group.policy_version.attempt,
        "step": group.policy_version.step,
        "purpose": group.purpose.value,
        "sample_id": sample.id,
        "video": sample.video,
        "label": sample.label,
        "split": sample.split.value,
        "sample_trace": sample.trace,
        "sample_text": sample.text,
        "sample_extra": json.dumps(dict(sample.extra)),
        "group_failures": [
            {"kind": failure.kind.value, "culprit": failure.culprit, "reason": failure.reason}
            for failure in group.failures
        ],
    }
    if prompt is not None:
        row |= {
            "clip_key": prompt.clip_key,
            "prompt_fingerprint": prompt.fingerprint,
            "prompt_version": prompt.version,
            "video_hash": prompt.video_hash or None,
            "window_start_s": prompt.window_start_s,
            "window_end_s": prompt.window_end_s,
            "semantic_tokenizer": prompt.semantic_tokenizer or None,
        }
    return row


def _trace_row(index: int, trace: Trace) -> dict[str, Any]:
    completion, outcome = trace.completion, trace.outcome
    temperature = completion.logprobs_temperature
    row = {
        "trace_index": index,
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "completion_attempt": completion.policy_version.attempt,
        "completion_step": completion.policy_version.step,
        # null for 1, which all rows of version 1 were at
        "logprobs_temperature": None if temperature == 1 else temperature,
        "version_changes": [
            {"first_token": one.first_token, **asdict(one.version)}
            for one in completion.version_changes
        ]
        or None,
    }
    if isinstance(outcome, Score):
        return row | {"reward": outcome.total, "reward_parts": list(outcome.parts.items())}
    return row | {
        "failure_kind": outcome.kind.value,
        "failure_culprit": outcome.culprit,
        "failure_reason": outcome.reason,
    }


def _lists(parts: Sequence[TokenIds | Logprobs | None], kind: pa.DataType) -> pa.Array:
    """A column of lists from the memory of arrays, null where there is no array."""
    data = pa.py_buffer(b"".join(part.tobytes() for part in parts if part is not None))
    ends = list(accumulate((len(part or ()) for part in parts), initial=0))
    is_null = [part is None for part in parts]
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()),
        pa.Array.from_buffers(kind, ends[-1], [None, data]),
        mask=pa.array(is_null) if any(is_null) else None,
    )
