"""Arrow rows -> TraceGroup: the inverse of wire/archive/trace_rows.py, to the last bit.

table of SCHEMA -> where groups begin -> columns as lists, each decoded once -> TraceGroups
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from wire.archive.trace_rows import ARRAYS, GROUP_SCHEMA, TRACE_SCHEMA, group_starts
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
    VersionChange,
)

A = TypeVar("A", TokenIds, Logprobs)

_GROUP_COLUMNS = [name for name in GROUP_SCHEMA.names if name not in ARRAYS]
_ENDS = {reason.value: reason for reason in FinishReason}


def groups_in(table: pa.Table, source: str) -> Iterator[TraceGroup]:
    """The groups in ``table``, where each group's rows are side by side. The inverse of rows_of.

    Raises ArchiveError naming ``source`` for rows that make no valid group.
    """
    starts = group_starts(table)
    heads = table.take(starts)  # the group's columns are decoded once, not once per trace
    shared = heads.select(_GROUP_COLUMNS).to_pylist()
    prompts = _arrays(heads["prompt_token_ids"], TokenIds)
    frames = _arrays(heads["frame_indices"], TokenIds)
    traces = _Traces(table)
    spans = pairwise([*starts.tolist(), table.num_rows])
    for head, prompt, shown, (start, end) in zip(shared, prompts, frames, spans, strict=True):
        try:
            yield _group(head, prompt, shown, traces.between(start, end))
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"{source} holds an invalid group {head['group_id']!r}: {error}; "
                "it was not written by this program, or was altered since"
            ) from error


class _Traces:
    """The traces of a table, its columns as lists."""

    def __init__(self, table: pa.Table) -> None:
        rows = table.select(TRACE_SCHEMA.names).combine_chunks()
        self._is_there = _values(rows["trace_index"].is_valid())
        self._tokens = _arrays(rows["token_ids"], TokenIds)
        self._logprobs = _arrays(rows["logprobs"], Logprobs)
        plain = ("text", "finish_reason", "failure_kind", "failure_culprit", "failure_reason")
        self._texts, self._ends, *self._failures = (_values(rows[name]) for name in plain)
        self._attempts = _values(rows["completion_attempt"].fill_null(0))
        self._steps = _values(rows["completion_step"].fill_null(0))
        self._temperatures = _values(rows["logprobs_temperature"].fill_null(1.0))
        self._changes = _changes(rows["version_changes"])
        self._rewards = _values(rows["reward"].fill_null(0.0))
        self._is_scored = _values(rows["reward"].is_valid())
        parts = _chunk(rows["reward_parts"])
        self._part_ends = _values(parts.offsets)
        self._names, self._part_values = _values(parts.keys), _values(parts.items)

    def between(self, start: int, end: int) -> tuple[Trace, ...]:
        return tuple(
            Trace(completion=self._completion(row), outcome=self._outcome(row))
            for row in range(start, end)
            if self._is_there[row]
        )

    def _completion(self, row: int) -> Completion:
        tokens, logprobs = self._tokens[row], self._logprobs[row]
        if tokens is None or logprobs is None:
            raise ValueError("a trace without token ids or logprobs")
        return Completion(
            token_ids=tokens,
            logprobs=logprobs,
            text=self._texts[row],
            finish_reason=_member(_ENDS, self._ends[row]),
            policy_version=_version(self._attempts[row], self._steps[row]),
            logprobs_temperature=self._temperatures[row],
            version_changes=self._changes.get(row, ()),
        )

    def _outcome(self, row: int) -> Score | Failure:
        kind, culprit, reason = (column[row] for column in self._failures)
        if kind is not None:
            return Failure(kind=FailureKind(kind), culprit=culprit, reason=reason)
        if not self._is_scored[row]:
            raise ValueError("a trace with neither a reward nor a failure")
        own = slice(self._part_ends[row], self._part_ends[row + 1])
        parts = dict(zip(self._names[own], self._part_values[own], strict=True))
        return Score(total=self._rewards[row], parts=parts)


def _group(
    row: dict[str, Any], prompt: TokenIds | None, frames: TokenIds | None, own: tuple[Trace, ...]
) -> TraceGroup:
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
        policy_version=_version(row["attempt"], row["step"]),
        prompt=None
        if prompt is None
        else Prompt(
            token_ids=prompt,
            clip_key=row["clip_key"],
            fingerprint=row["prompt_fingerprint"],
            version=row["prompt_version"],
            video_hash=row["video_hash"] or "",
            window_start_s=row["window_start_s"],
            window_end_s=row["window_end_s"],
            frame_indices=() if frames is None else tuple(frames),
            semantic_tokenizer=row["semantic_tokenizer"] or "",
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


@lru_cache(64)
def _version(attempt: int, step: int) -> PolicyVersion:
    return PolicyVersion(attempt=attempt, step=step)


def _changes(column: pa.ChunkedArray) -> dict[int, tuple[VersionChange, ...]]:
    """Version changes by row; most rows have none."""
    rows = np.flatnonzero(column.is_valid().to_numpy())
    return {
        int(row): tuple(
            VersionChange(one["first_token"], _version(one["attempt"], one["step"]))
            for one in changes
        )
        for row, changes in zip(rows, column.take(rows).to_pylist(), strict=True)
    }


def _member(members: Mapping[str, FinishReason], value: str) -> FinishReason:
    return members.get(value) or FinishReason(value)  # which says what is wrong with it


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, at the start of its memory."""
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


def _values(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The values of a column, None where null (floats and whole numbers: without nulls)."""
    values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
    return values


def _arrays(column: pa.ChunkedArray, kind: type[A]) -> list[A | None]:
    """A column of lists as arrays, each with a copy of its numbers: a view would keep the whole
    column in memory."""
    size = np.dtype(np.int32 if kind is TokenIds else np.float32).itemsize
    arrays: list[A | None] = []
    for chunk in column.chunks:
        memory = memoryview(chunk.values.to_numpy(zero_copy_only=False)).cast("B")
        ends = [size * end for end in chunk.offsets.to_numpy().tolist()]
        arrays += [
            kind.of_bytes(bytes(memory[start:end])) if valid else None
            for valid, (start, end) in zip(_values(chunk.is_valid()), pairwise(ends), strict=True)
        ]
    return arrays
