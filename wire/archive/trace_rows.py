"""TraceGroup <-> Arrow rows: one row per trace, the columns of its group repeated on each.

    TraceGroup -> rows_of -> table -> (journal or Parquet) -> table -> groups_in -> TraceGroup

A group without traces is one row whose ``trace_index`` is null. The way there and back is exact:
rewards are float64, logprobs are float32 in a column of float64 (which holds each of them), and a
missing prompt, text or reward is null, never empty.
To change a column, raise SCHEMA_VERSION: both the journal and the Parquet files carry it.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from wire.errors import ArchiveError
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
)

SCHEMA_VERSION = 2
_READABLE = (1, SCHEMA_VERSION)

_FAILURE = pa.struct(
    [("kind", pa.string()), ("culprit", pa.string()), ("reason", pa.string())],
)
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
    ("group_failures", pa.list_(_FAILURE)),
]
_TRACE_FIELDS = [
    ("trace_index", pa.int32()),
    ("token_ids", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float64())),
    ("text", pa.string()),
    ("finish_reason", pa.string()),
    ("completion_attempt", pa.int32()),
    ("completion_step", pa.int64()),
    ("reward", pa.float64()),
    ("reward_parts", pa.map_(pa.string(), pa.float64())),
    ("failure_kind", pa.string()),
    ("failure_culprit", pa.string()),
    ("failure_reason", pa.string()),
    ("logprobs_temperature", pa.float64()),
]
_SINCE_VERSION_2 = {"logprobs_temperature"}
SCHEMA = pa.schema(_GROUP_FIELDS + _TRACE_FIELDS)
"""``attempt`` and ``step`` are the group's policy version, ``completion_*`` those of one answer."""

_ARRAYS = ("prompt_token_ids", "token_ids", "logprobs")  # not through Python numbers
_GROUP_COLUMNS = [name for name, _ in _GROUP_FIELDS if name not in _ARRAYS]
_TRACE_COLUMNS = [name for name, _ in _TRACE_FIELDS if name not in _ARRAYS]
_NO_TRACE = dict.fromkeys(_TRACE_COLUMNS)
_PLAIN_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in _ARRAYS])

A = TypeVar("A", TokenIds, Logprobs)


def rows_of(group: TraceGroup) -> pa.Table:
    """The rows of one group, in the order of its traces: a table of SCHEMA with at least one row.

    Raises ArchiveError for a value that no column can hold: a token id beyond 32 bits, text that is
    not valid Unicode, a manifest column that is not JSON.
    """
    try:
        shared = _group_row(group)
        traces = [_trace_row(index, trace) for index, trace in enumerate(group.traces)]
        rows = [shared | row for row in traces or [_NO_TRACE]]
        columns = _array_columns(group, len(rows))
        plain = pa.Table.from_pylist(rows, schema=_PLAIN_SCHEMA)
        return pa.table([columns.get(name) or plain[name] for name in SCHEMA.names], schema=SCHEMA)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(
            f"group {group.group_id!r} of sample {group.sample.id!r} cannot be archived: {error}; "
            "nothing was written for it"
        ) from error


def groups_in(table: pa.Table, source: str) -> Iterator[TraceGroup]:
    """The groups in ``table``, where each group's rows are side by side. The inverse of rows_of.

    Raises ArchiveError naming ``source`` for rows that make no valid group.
    """
    ids = table["group_id"].to_pylist()
    starts = [row for row, name in enumerate(ids) if row == 0 or name != ids[row - 1]]
    heads = table.take(
        pa.array(starts, pa.int64())
    )  # the group's columns are decoded once, not once per trace
    shared = heads.select(_GROUP_COLUMNS).to_pylist()
    prompts = _arrays(heads["prompt_token_ids"], TokenIds)
    traces = table.select(_TRACE_COLUMNS).to_pylist()
    tokens, logprobs = _arrays(table["token_ids"], TokenIds), _arrays(table["logprobs"], Logprobs)
    for head, prompt, (start, end) in zip(
        shared, prompts, pairwise([*starts, len(ids)]), strict=True
    ):
        try:
            own = tuple(
                _trace(traces[row], tokens[row], logprobs[row])
                for row in range(start, end)
                if traces[row]["trace_index"] is not None
            )
            yield _group(head, prompt, own)
        except (TypeError, ValueError) as error:
            raise ArchiveError(
                f"{source} holds an invalid group {head['group_id']!r}: {error}; "
                "it was not written by this program, or was altered since"
            ) from error


def group_id_of(table: pa.Table) -> str:
    """The id of the first group in ``table``."""
    return str(table["group_id"][0])


def is_readable(schema: pa.Schema) -> bool:
    """Whether rows of this schema can be read: that of now, or of version 1."""
    return any(
        schema.equals(pa.schema([f for f in SCHEMA if f.name not in lacking]))
        for lacking in ((), _SINCE_VERSION_2)
    )


def upgraded(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """These columns of rows, those of later versions than theirs null."""
    for name in _SINCE_VERSION_2 - set(table.column_names):
        field = SCHEMA.field(name)
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(SCHEMA.names if columns is None else columns)


def check_version(path: Path, version: int) -> None:
    """Raise ArchiveError unless ``version``, that of the file at ``path``, is read here."""
    if version not in _READABLE:
        advice = "update DeepIntuit" if version > SCHEMA_VERSION else "use the older program"
        raise ArchiveError(
            f"{path} has trace schema version {version}, but this program reads version "
            f"{SCHEMA_VERSION}; {advice}"
        )


def _group_row(group: TraceGroup) -> dict[str, Any]:
    sample, prompt = group.sample, group.prompt
    return {
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
        "clip_key": prompt.clip_key if prompt else None,
        "prompt_fingerprint": prompt.fingerprint if prompt else None,
        "prompt_version": prompt.version if prompt else None,
        "group_failures": [
            {"kind": failure.kind.value, "culprit": failure.culprit, "reason": failure.reason}
            for failure in group.failures
        ],
    }


def _unless_1(temperature: float) -> float | None:
    """Null for 1, which all rows of version 1 were at."""
    return None if temperature == 1 else temperature


def _trace_row(index: int, trace: Trace) -> dict[str, Any]:
    completion, outcome = trace.completion, trace.outcome
    row = _NO_TRACE | {
        "trace_index": index,
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "completion_attempt": completion.policy_version.attempt,
        "completion_step": completion.policy_version.step,
        "logprobs_temperature": _unless_1(completion.logprobs_temperature),
    }
    if isinstance(outcome, Score):
        return row | {"reward": outcome.total, "reward_parts": list(outcome.parts.items())}
    return row | {
        "failure_kind": outcome.kind.value,
        "failure_culprit": outcome.culprit,
        "failure_reason": outcome.reason,
    }


def _group(row: dict[str, Any], prompt: TokenIds | None, own: tuple[Trace, ...]) -> TraceGroup:
    return TraceGroup(
        group_id=row["group_id"],
        sample=Sample(
            id=row["sample_id"],
            video=row["video"],
            label=row["label"],
            split=Split(row["split"]),
            trace=row["sample_trace"],
            text=row["sample_text"],
            extra=json.loads(row["sample_extra"]),
        ),
        purpose=Purpose(row["purpose"]),
        policy_version=PolicyVersion(attempt=row["attempt"], step=row["step"]),
        prompt=None
        if prompt is None
        else Prompt(
            token_ids=prompt,
            clip_key=row["clip_key"],
            fingerprint=row["prompt_fingerprint"],
            version=row["prompt_version"],
        ),
        traces=own,
        failures=tuple(
            Failure(
                kind=FailureKind(failure["kind"]),
                culprit=failure["culprit"],
                reason=failure["reason"],
            )
            for failure in row["group_failures"]
        ),
    )


def _trace(row: dict[str, Any], tokens: Any, logprobs: Any) -> Trace:
    completion = Completion(
        token_ids=tokens,
        logprobs=logprobs,
        text=row["text"],
        finish_reason=FinishReason(row["finish_reason"]),
        policy_version=PolicyVersion(
            attempt=row["completion_attempt"], step=row["completion_step"]
        ),
        logprobs_temperature=row["logprobs_temperature"] or 1.0,
    )
    if row["failure_kind"] is None:
        return Trace(
            completion=completion,
            outcome=Score(total=row["reward"], parts=dict(row["reward_parts"])),
        )
    return Trace(
        completion=completion,
        outcome=Failure(
            kind=FailureKind(row["failure_kind"]),
            culprit=row["failure_culprit"],
            reason=row["failure_reason"],
        ),
    )


def _array_columns(group: TraceGroup, num_rows: int) -> dict[str, pa.Array]:
    """Columns of token ids and logprobs, from the memory of their arrays."""
    completions = [trace.completion for trace in group.traces]
    prompt = group.prompt.token_ids if group.prompt else None
    without = [None] * (num_rows - len(completions))
    ids = [completion.token_ids for completion in completions]
    logprobs = [completion.logprobs for completion in completions]
    return {
        "prompt_token_ids": _column([prompt] * num_rows, pa.int32()),
        "token_ids": _column([*ids, *without], pa.int32()),
        "logprobs": _column([*logprobs, *without], pa.float32()).cast(pa.list_(pa.float64())),
    }


def _column(parts: Sequence[TokenIds | Logprobs | None], kind: pa.DataType) -> pa.Array:
    """A column of lists, null where there is no array."""
    data = pa.py_buffer(b"".join(part.tobytes() for part in parts if part is not None))
    ends = list(accumulate((len(part or ()) for part in parts), initial=0))
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()),
        pa.Array.from_buffers(kind, ends[-1], [None, data]),
        mask=pa.array([part is None for part in parts]),
    )


def _arrays(column: pa.ChunkedArray, kind: type[A]) -> list[A | None]:
    """A column of lists as arrays, each with a copy of its numbers: a view would keep the whole
    column in memory."""
    number = np.int32 if kind is TokenIds else np.float32
    arrays: list[A | None] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False).astype(number, copy=False)
        spans = zip(chunk.is_valid().to_pylist(), pairwise(chunk.offsets.to_pylist()), strict=True)
        arrays += [
            kind.of_bytes(values[start:end].tobytes()) if valid else None
            for valid, (start, end) in spans
        ]
    return arrays
