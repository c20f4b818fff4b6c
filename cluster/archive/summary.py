"""Counts of an archive by attempt, purpose and split, and when its files were written."""

import itertools
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from wire.archive.archive import journals
from wire.archive.index_files import Count
from wire.archive.parquet_files import parquet_files


def by_split(counts: tuple[Count, ...]) -> list[Count]:
    """Counts of all labels together, as they are sorted."""
    return [
        replace(reduce(add, own), label="")
        for _, own in itertools.groupby(counts, key=lambda c: (c.attempt, c.purpose, c.split))
    ]


def mean_reward(count: Count) -> float | None:
    """Mean reward of the scored traces; None if there are none."""
    return count.reward_sum / count.scored if count.scored else None


def to_plain(count: Count) -> dict[str, Any]:
    """Counts as JSON has them."""
    names = ("attempt", "purpose", "split", "label", "first_step", "last_step", "groups", "traces")
    plain = {name: getattr(count, name) for name in (*names, "failed", "tokens")}
    return plain | {"mean_reward": mean_reward(count)}


def written(directory: Path) -> tuple[float, float] | None:
    """When the oldest and the newest file were written, in seconds since 1970; None without files.
    Raises ArchiveError."""
    paths = [*parquet_files(directory), *journals(directory).values()]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return (min(times), max(times)) if times else None
