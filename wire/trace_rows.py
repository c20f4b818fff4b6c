"""TraceGroup <-> Arrow rows: one row per trace, the columns of its group repeated on each.

    TraceGroup -> rows_of -> table -> (journal or Parquet) -> table -> groups_in -> TraceGroup

A group without traces is one row whose ``trace_index`` is null. The way there and back is exact:
logprobs and rewards are float64, and a missing prompt, text or reward is null, never empty.
To change a column, raise SCHEMA_VERSION: both the journal and the Parquet files carry it.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from wire.errors import ArchiveError
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

SCHEMA_VERSION = 1

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
]
SCHEMA = pa.schema(_GROUP_FIELDS + _TRACE_FIELDS)
"""``attempt`` and ``step`` are the group's policy version, ``completion_*`` those of one answer."""

_NO_TRACE = dict.fromkeys(name for name, _ in _TRACE_FIELDS)
_GROUP_COLUMNS = [name for name, _ in _GROUP_FIELDS if name != "prompt_token_ids"]
_TRACE_COLUMNS = [name for name, _ in _TRACE_FIELDS if name not in ("token_ids", "logprobs")]


def rows_of(group: TraceGroup) -> pa.Table:
    """The rows of one group, in the order of its traces: a table of SCHEMA with at least one row.

    Raises ArchiveError for a value that no column can hold: a token id beyond 32 bits, text that is
    not valid Unicode, a manifest column that is not JSON.
    """
    try:
        shared = _group_row(group)
        traces = [_trace_row(index, trace) for index, trace in enumerate(group.traces)]
        return pa.Table.from_pylist([shared | row for row in traces or [_NO_TRACE]], schema=SCHEMA)
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
    prompts = _tuples(heads["prompt_token_ids"])
    traces = table.select(_TRACE_COLUMNS).to_pylist()
    tokens, logprobs = _tuples(table["token_ids"]), _tuples(table["logprobs"])
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


def check_version(path: Path, version: int) -> None:
    """Raise ArchiveError unless ``version``, that of the file at ``path``, is the one read here."""
    if version != SCHEMA_VERSION:
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
        "prompt_token_ids": prompt.token_ids if prompt else None,
        "clip_key": prompt.clip_key if prompt else None,
        "prompt_fingerprint": prompt.fingerprint if prompt else None,
        "prompt_version": prompt.version if prompt else None,
        "group_failures": [
            {"kind": failure.kind.value, "culprit": failure.culprit, "reason": failure.reason}
            for failure in group.failures
        ],
    }


def _trace_row(index: int, trace: Trace) -> dict[str, Any]:
    completion, outcome = trace.completion, trace.outcome
    row = _NO_TRACE | {
        "trace_index": index,
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "completion_attempt": completion.policy_version.attempt,
        "completion_step": completion.policy_version.step,
    }
    if isinstance(outcome, Score):
        return row | {"reward": outcome.total, "reward_parts": list(outcome.parts.items())}
    return row | {
        "failure_kind": outcome.kind.value,
        "failure_culprit": outcome.culprit,
        "failure_reason": outcome.reason,
    }


def _group(
    row: dict[str, Any], prompt: tuple[int, ...] | None, own: tuple[Trace, ...]
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


def _tuples(column: pa.ChunkedArray) -> list[tuple[Any, ...] | None]:
    """A column of number lists as tuples; through numpy, for to_pylist is slow with numbers."""
    tuples: list[tuple[Any, ...] | None] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False).tolist()
        spans = zip(chunk.is_valid().to_pylist(), pairwise(chunk.offsets.to_pylist()), strict=True)
        tuples += [tuple(values[start:end]) if valid else None for valid, (start, end) in spans]
    return tuples
