"""Reads groups for the report from the trace archive. Streams: no archive is too big.

    archive, part by part -> index (which groups there are, which failed)
                          -> collect (the texts of the few that were chosen)

Stage and kind come from a group's id (``grpo/00000005``, ``grpo/evaluation/test-7``) and purpose.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.compute as pc

from wire.archive.archive import read_tables
from wire.types import Purpose, Sample, Split

MAX_CHARS = 6000
"""Longest text of a trace; longer ones are cut and marked."""

_INDEX = (
    "group_id", "attempt", "step", "purpose", "sample_id", "trace_index",
    "failure_kind", "group_failures",
)  # fmt: skip
_CONTENT = (
    *_INDEX, "video", "label", "split", "sample_text", "token_ids", "text", "finish_reason",
    "sample_extra", "completion_attempt", "completion_step", "reward", "reward_parts",
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
    """Policy version that wrote the trace, ``attempt.step``."""
    reward: float | None
    """None: scoring failed, see ``failure``."""
    parts: dict[str, float]
    failure: FailureFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """Identity of an archived group, without its texts."""

    group_id: str
    attempt: int
    step: int
    purpose: str
    sample_id: str
    failed: bool
    """Whether the group or a trace of it failed."""

    @property
    def stage(self) -> str:
        """Stage or arm that wrote the group."""
        return self.group_id.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One archived group."""

    key: GroupKey
    sample: Sample
    traces: tuple[TraceFacts, ...]
    failures: tuple[FailureFacts, ...]


@dataclass(slots=True, kw_only=True)
class ArchiveIndex:
    """Index of the archive's groups by stage; groups of control arms are only counted."""

    num_groups: int = 0
    num_traces: int = 0
    failed: dict[str, set[str]] = field(default_factory=dict)
    """Stage -> evaluated clips whose group, or trace, failed."""
    training: dict[int, int] = field(default_factory=dict)
    """Step of the policy -> newest attempt that wrote GRPO groups with it."""
    num_training: int = 0
    beginnings: Mapping[str, int] = field(default_factory=dict)
    """Stage -> attempt with which it began anew."""

    def is_current(self, key: GroupKey) -> bool:
        """Whether a group is of its stage's present training, not of one that was replaced."""
        return key.attempt >= self.beginnings.get(key.stage, 0)


def index_archive(
    directory: Path,
    stages: Collection[str],
    training: str,
    beginnings: Mapping[str, int] = MappingProxyType({}),
) -> ArchiveIndex:
    """Index an archive in one pass over its light columns: failures of ``stages``, groups that the
    GRPO stage ``training`` was trained on; ``beginnings``: stage -> attempt with which it began
    anew. Raises ArchiveError; a missing archive is empty."""
    index = ArchiveIndex(beginnings=beginnings)
    for key, size in _keys(directory):
        index.num_groups += 1
        index.num_traces += size
        if key.stage not in stages or not index.is_current(key):
            continue
        if key.purpose == Purpose.EVALUATION and key.failed:
            index.failed.setdefault(key.stage, set()).add(key.sample_id)
        if key.purpose == Purpose.TRAIN and key.stage == training:
            index.num_training += 1
            index.training[key.step] = max(key.attempt, index.training.get(key.step, -1))
    return index


def collect(directory: Path, wanted: Callable[[GroupKey], bool]) -> Iterator[GroupFacts]:
    """Read the groups for which ``wanted`` is true, in order of writing. Raises ArchiveError."""
    if not directory.is_dir():
        return
    for table in read_tables(directory, _CONTENT):
        lengths = pc.list_value_length(table["token_ids"])
        slim = table.drop_columns(["token_ids"]).append_column("num_tokens", lengths)
        light = table.select(list(_INDEX)).to_pylist()
        start = 0
        for _, members in groupby(light, key=lambda row: row["group_id"]):
            rows = list(members)
            if wanted(_key(rows)):  # a slice: filters by value would import pandas
                yield _group(slim.slice(start, len(rows)).to_pylist())
            start += len(rows)


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
        sample=Sample(
            id=head["sample_id"],
            video=head["video"],
            label=head["label"],
            split=Split(head["split"]),
            text=head["sample_text"],
            extra=json.loads(head["sample_extra"]),
        ),
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
