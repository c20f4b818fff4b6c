"""Rows of the trace archive -> the groups that the page may show. Streams: no archive is too big.

    archive, part by part -> index (which groups there are, which failed)
                          -> collect (the texts of the few that were chosen)

Stage and kind come from a group's id (``grpo/00000005``, ``grpo/evaluation/test-7``) and purpose.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from cluster.config import STAGES
from wire.archive import read_tables
from wire.types import Purpose

MAX_CHARS = 6000
"""Of one trace; what is longer is cut, and says so."""

_INDEX = (
    "group_id", "attempt", "step", "purpose", "sample_id", "trace_index",
    "failure_kind", "group_failures",
)  # fmt: skip
_CONTENT = (
    *_INDEX, "video", "label", "split", "sample_text", "token_ids", "text", "finish_reason",
    "completion_attempt", "completion_step", "reward", "reward_parts",
    "failure_culprit", "failure_reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """A typed failure, of a group or of one trace."""

    kind: str
    culprit: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFacts:
    """One archived trace."""

    text: str
    num_tokens: int
    finish_reason: str
    version: str
    """Policy version that wrote it, ``attempt.step``."""
    reward: float | None
    """None: its scoring failed; then ``failure`` says why."""
    parts: dict[str, float]
    failure: FailureFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """Which group, before its texts are read."""

    group_id: str
    attempt: int
    step: int
    purpose: str
    sample_id: str
    failed: bool
    """It has a failure, of its own or of a trace."""

    @property
    def stage(self) -> str:
        """The stage or arm that wrote it."""
        return self.group_id.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One archived group."""

    key: GroupKey
    video: str
    label: str
    split: str
    side_text: str | None
    """In the manifest; a prompt shows it if the recipe says so."""
    traces: tuple[TraceFacts, ...]
    failures: tuple[FailureFacts, ...]


@dataclass(slots=True, kw_only=True)
class ArchiveIndex:
    """What the archive has of the stages; control arms' groups are only counted."""

    num_groups: int = 0
    num_traces: int = 0
    failed: dict[str, set[str]] = field(default_factory=dict)
    """Stage -> evaluated clips whose group, or trace, failed."""
    training: dict[int, int] = field(default_factory=dict)
    """Step of the policy -> newest attempt that wrote GRPO groups with it."""
    num_training: int = 0


def index_archive(directory: Path) -> ArchiveIndex:
    """One pass over the light columns. Raises ArchiveError; an archive that is not there is
    empty."""
    found = ArchiveIndex()
    for key, size in _keys(directory):
        found.num_groups += 1
        found.num_traces += size
        if key.stage not in STAGES:
            continue
        if key.purpose == Purpose.EVALUATION and key.failed:
            found.failed.setdefault(key.stage, set()).add(key.sample_id)
        if key.purpose == Purpose.TRAIN:
            found.num_training += 1
            found.training[key.step] = max(key.attempt, found.training.get(key.step, -1))
    return found


def collect(directory: Path, wanted: Callable[[GroupKey], bool]) -> Iterator[GroupFacts]:
    """The groups that ``wanted`` says yes to, in the order of writing. Raises ArchiveError."""
    if not directory.is_dir():
        return
    for table in read_tables(directory, _CONTENT):
        light = table.select(list(_INDEX)).to_pylist()
        keys = [_key(list(rows)) for _, rows in groupby(light, key=lambda row: row["group_id"])]
        chosen = {key.group_id for key in keys if wanted(key)}
        if not chosen:
            continue
        lengths = pc.list_value_length(table["token_ids"])
        slim = table.drop_columns(["token_ids"]).append_column("num_tokens", lengths)
        rows = slim.filter(pc.field("group_id").isin(list(chosen))).to_pylist()
        for _, members in groupby(rows, key=lambda row: row["group_id"]):
            yield _group(list(members))


def _keys(directory: Path) -> Iterator[tuple[GroupKey, int]]:
    """Each group and its number of traces."""
    if not directory.is_dir():
        return
    for table in read_tables(directory, _INDEX):
        for _, members in groupby(table.to_pylist(), key=lambda row: row["group_id"]):
            rows = list(members)
            yield _key(rows), sum(row["trace_index"] is not None for row in rows)


def _key(rows: list[dict[str, Any]]) -> GroupKey:
    head = rows[0]
    return GroupKey(
        group_id=head["group_id"],
        attempt=head["attempt"],
        step=head["step"],
        purpose=head["purpose"],
        sample_id=head["sample_id"],
        failed=bool(head["group_failures"]) or any(row["failure_kind"] for row in rows),
    )


def _group(rows: list[dict[str, Any]]) -> GroupFacts:
    head = rows[0]
    return GroupFacts(
        key=_key(rows),
        video=head["video"],
        label=head["label"],
        split=head["split"],
        side_text=head["sample_text"],
        traces=tuple(_trace(row) for row in rows if row["trace_index"] is not None),
        failures=tuple(FailureFacts(**failure) for failure in head["group_failures"] or ()),
    )


def _trace(row: dict[str, Any]) -> TraceFacts:
    failure = row["failure_kind"] and FailureFacts(
        kind=row["failure_kind"], culprit=row["failure_culprit"], reason=row["failure_reason"]
    )
    return TraceFacts(
        text=shortened(row["text"]),
        num_tokens=row["num_tokens"],
        finish_reason=row["finish_reason"],
        version=f"{row['completion_attempt']}.{row['completion_step']}",
        reward=row["reward"],
        parts=dict(row["reward_parts"] or ()),
        failure=failure or None,
    )


def shortened(text: str) -> str:
    """A trace of at most MAX_CHARS characters."""
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]} [... {len(text) - MAX_CHARS:,} more characters]"
