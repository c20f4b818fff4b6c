"""Counts of an archive by attempt, purpose and split: groups, traces, tokens, versions, reward."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.archive.rows import scan
from cluster.archive.where import EVERY_ROW
from wire.archive.parquet_files import parquet_files

_COLUMNS = (
    "attempt",
    "purpose",
    "split",
    "step",
    "group_id",
    "trace_index",
    "failure_kind",
    "reward",
    "num_tokens",
)


@dataclass(slots=True)
class Part:
    """Counts of one part of the archive: an attempt's groups of one purpose and split."""

    attempt: int
    purpose: str
    split: str
    num_groups: int = 0
    num_traces: int = 0
    num_failed: int = 0
    """Traces whose scoring failed, and groups without a trace."""
    num_tokens: int = 0
    """Sampled tokens; those of prompts are not counted."""
    reward_sum: float = 0.0
    num_scored: int = 0
    steps: set[int] = field(default_factory=set)

    @property
    def mean_reward(self) -> float | None:
        """Mean reward of the scored traces; None if there are none."""
        return self.reward_sum / self.num_scored if self.num_scored else None

    def to_plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "attempt": self.attempt,
            "purpose": self.purpose,
            "split": self.split,
            "versions": len(self.steps),
            "first_step": min(self.steps),
            "last_step": max(self.steps),
            "groups": self.num_groups,
            "traces": self.num_traces,
            "failed": self.num_failed,
            "tokens": self.num_tokens,
            "mean_reward": self.mean_reward,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files of the archive: how many, how large, and when the oldest and the newest were written,
    in seconds since 1970."""

    num_files: int
    num_bytes: int
    oldest: float | None
    newest: float | None


def summarise_parts(directory: Path) -> list[Part]:
    """Counts of the archive by attempt, purpose and split. Raises ArchiveError."""
    parts: dict[tuple[int, str, str], Part] = {}
    for table in scan(directory, _COLUMNS, EVERY_ROW):
        for key, rows in _split(table):
            _add(parts.setdefault(key, Part(*key)), rows)
    return [parts[key] for key in sorted(parts)]


def files_of(directory: Path) -> Files:
    """The archive's files, journals included. Raises ArchiveError for a foreign one."""
    stats = [path.stat() for path in (*parquet_files(directory), *directory.glob("journal-*.bin"))]
    times = [stat.st_mtime for stat in stats]
    return Files(
        num_files=len(stats),
        num_bytes=sum(stat.st_size for stat in stats),
        oldest=min(times, default=None),
        newest=max(times, default=None),
    )


def _split(table: pa.Table) -> Iterator[tuple[tuple[int, str, str], pa.Table]]:
    keys = table.select(["attempt", "purpose", "split"]).group_by(["attempt", "purpose", "split"])
    for row in keys.aggregate([]).to_pylist():
        key = row["attempt"], row["purpose"], row["split"]
        same = [pc.equal(table[name], value) for name, value in row.items()]
        yield key, table.filter(pc.and_(pc.and_(same[0], same[1]), same[2]))


def _add(part: Part, rows: pa.Table) -> None:
    rewards = rows["reward"].drop_null()
    failed = pc.or_(rows["failure_kind"].is_valid(), rows["trace_index"].is_null())
    part.num_groups += pc.count_distinct(rows["group_id"]).as_py()
    part.num_traces += len(rows) - rows["trace_index"].null_count
    part.num_failed += pc.sum(failed).as_py()
    part.num_tokens += pc.sum(rows["num_tokens"]).as_py() or 0
    part.num_scored += len(rewards)
    part.reward_sum += math.fsum(rewards.to_pylist())
    part.steps |= set(rows["step"].to_pylist())
