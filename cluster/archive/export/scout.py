"""Transcripts for Inspect Scout: a folder of Parquet that ``transcripts_from(OUT)`` scans.

    row of the archive -> transcript_id, messages, score, model, ... -> transcripts.parquet

One trace is one transcript. Scout's own columns are of inspect_scout 0.6.2; beside them the
archive's, which Scout lists as metadata. An archive has the version of a prompt, not its text: the
question is worded by the run's recipe where that has this version, else it names the video only.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.archive.rows import plain_rows
from rollout.message import Message
from rollout.prompt import Prompts
from wire.errors import DataError
from wire.strict_json import to_json
from wire.types import Sample, Split, stable_hash

_BATCH_ROWS = 4096
_ID_LENGTH = 32

SCOUT_SOURCE = (
    "group_id",
    "attempt",
    "step",
    "purpose",
    "sample_id",
    "video",
    "label",
    "split",
    "sample_text",
    "sample_extra",
    "prompt_version",
    "video_hash",
    "window_start_s",
    "window_end_s",
    "trace_index",
    "num_tokens",
    "text",
    "finish_reason",
    "completion_attempt",
    "completion_step",
    "reward",
    "reward_parts",
    "failure_kind",
    "failure_culprit",
    "failure_reason",
)
"""Columns of the archive that a transcript is made of."""

_STANDARD = pa.schema(
    [
        ("transcript_id", pa.string()),
        ("source_type", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("task_set", pa.string()),
        ("task_id", pa.string()),
        ("task_repeat", pa.int64()),
        ("model", pa.string()),
        ("score", pa.string()),  # JSON
        ("score_explanation", pa.string()),
        ("success", pa.bool_()),
        ("message_count", pa.int64()),
        ("total_tokens", pa.int64()),
        ("error", pa.string()),
        ("limit", pa.string()),
        ("messages", pa.string()),  # JSON
    ]
)
_METADATA = pa.schema(
    [
        ("group_id", pa.string()),
        ("trace_index", pa.int64()),
        ("policy_version", pa.string()),
        ("purpose", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("video_hash", pa.string()),
        ("window_start_s", pa.float64()),
        ("window_end_s", pa.float64()),
        ("reward", pa.float64()),
        ("failure_kind", pa.string()),
    ]
)
SCOUT_SCHEMA = pa.schema([*_STANDARD, *_METADATA])
"""Columns of the export: Scout's, then the archive's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRun:
    """The run whose traces become transcripts."""

    name: str
    model: str = ""
    """Of its recipe; empty if that cannot be read."""
    prompts: Prompts | None = None


def transcripts_of(table: pa.Table, run: TracedRun) -> pa.Table:
    """The traces in ``table`` as transcripts; groups without a trace have none."""
    rows = [row for row in plain_rows(table) if row["trace_index"] is not None]
    transcripts: list[dict[str, Any]] = []
    for _, own in itertools.groupby(rows, key=lambda row: (row["attempt"], row["group_id"])):
        members = list(own)
        question = _question(members[0], run.prompts)
        transcripts += [_transcript(row, run, question) for row in members]
    return pa.Table.from_pylist(transcripts, schema=SCOUT_SCHEMA)


def write_scout(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """A folder with a Parquet file of transcripts."""
    path.mkdir(parents=True)
    with pq.ParquetWriter(path / "transcripts.parquet", schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=_BATCH_ROWS)


def _transcript(row: dict[str, Any], run: TracedRun, question: list[Message]) -> dict[str, Any]:
    version = f"{row['completion_attempt']}.{row['completion_step']}"
    group = f"{row['attempt']}/{row['group_id']}"
    failure = row["failure_kind"] and (
        f"{row['failure_kind']}: {row['failure_reason']} ({row['failure_culprit']})"
    )
    messages = _messages(row, group, question)
    parts = row["reward_parts"] or {}
    return {
        "transcript_id": _file_safe_id(run.name, row),
        "source_type": "deepintuit",
        "source_id": run.name,
        "source_uri": row["video"],
        "task_set": row["purpose"],
        "task_id": row["sample_id"],
        "task_repeat": row["trace_index"],
        "model": f"{run.model}@{version}" if run.model else version,
        "score": None if row["reward"] is None else to_json(row["reward"]),
        "score_explanation": to_json(parts) if parts else None,
        "success": parts["accuracy"] >= 1 if "accuracy" in parts else None,
        "message_count": len(messages),
        "total_tokens": row["num_tokens"],
        "error": failure,
        "limit": "tokens" if row["finish_reason"] == "length" else None,
        "messages": json.dumps(messages),
        "policy_version": version,
        **{name: row[name] for name in _METADATA.names if name != "policy_version"},
    }


def _file_safe_id(run: str, row: dict[str, Any]) -> str:
    """Scout keeps the results of a transcript in a file of its id: no slashes, as groups have."""
    return stable_hash(run, row["attempt"], row["group_id"], row["trace_index"])[:_ID_LENGTH]


def _messages(row: dict[str, Any], group: str, question: list[Message]) -> list[dict[str, Any]]:
    """The question and the answer, as Inspect's ChatMessage has them."""
    turns = [
        {
            "id": f"{group}/{message.role}",
            "role": message.role,
            "content": f"[video {row['video']}]\n{message.text}"
            if message.has_video
            else message.text,
        }
        for message in question
    ]
    answer = {"id": f"{group}/{row['trace_index']}", "role": "assistant", "content": row["text"]}
    return [*turns, answer]


def _question(row: dict[str, Any], prompts: Prompts | None) -> list[Message]:
    if prompts is not None and prompts.version("trace") == row["prompt_version"]:
        with contextlib.suppress(DataError):  # the clip lacks a column that the text names
            return prompts.trace(
                Sample(
                    id=row["sample_id"],
                    video=row["video"],
                    label=row["label"],
                    split=Split(row["split"]),
                    text=row["sample_text"],
                    extra=json.loads(row["sample_extra"]),
                )
            )
    worded = f"(prompt version {row['prompt_version'] or 'not recorded'})"
    shown = [worded] if row["sample_text"] is None else [worded, row["sample_text"]]
    return [Message("user", ("\n".join(shown),), has_video=True)]
