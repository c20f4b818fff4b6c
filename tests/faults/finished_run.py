"""Checker of a finished run: nothing lost, nothing trained twice, no failure taken for a zero.

By files alone: metrics.jsonl, the archive, events.jsonl. (No test file.)
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wire.archive.archive import read_groups
from wire.types import Purpose, Score, TraceGroup


def problems_of(run_dir: Path, *, steps: int, groups: int, max_staleness: int) -> list[str]:
    """All that a finished GRPO run must not show."""
    rows = step_rows(run_dir)
    trained = list(read_groups(run_dir / "archive", Purpose.TRAIN))
    return [
        *_of_steps(rows, steps),
        *_of_places(rows, trained, groups, max_staleness),
        *_of_rewards(trained),
    ]


def step_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Lines of GRPO steps, in the order in which they were written."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [r for r in rows if r["stage"] == "grpo" and "rollout/next_place" in r]


def _of_steps(rows: Sequence[dict[str, Any]], steps: int) -> Iterator[str]:
    counts = Counter((row["attempt"], row["step"]) for row in rows)
    yield from (f"step {key} was logged {n} times" for key, n in counts.items() if n > 1)
    if (logged := sorted({row["step"] for row in rows})) != list(range(1, steps + 1)):
        yield f"steps {logged} were logged, not 1 to {steps}"


def _of_places(
    rows: Sequence[dict[str, Any]], trained: Sequence[TraceGroup], groups: int, max_staleness: int
) -> Iterator[str]:
    """Each place trained once, on an archived group within the bound."""
    last = {row["step"]: row for row in rows}
    start = 0
    for step, row in sorted(last.items()):
        end = int(row["rollout/next_place"])
        if end - start != groups:
            yield f"step {step} trained the places {start} to {end}, not {groups} of them"
        for place in range(start, end):
            versions = [
                group.policy_version
                for group in trained
                if group.group_id == f"grpo/{place:08d}"
                and group.policy_version.attempt <= row["attempt"]
            ]
            if not versions:
                yield f"place {place} of step {step} is not in the archive"
            elif not 0 <= step - max(versions).step <= max_staleness:
                yield f"place {place} of step {step} was written with version {max(versions)}"
        start = end
    ids = Counter((group.policy_version.attempt, group.group_id) for group in trained)
    yield from (f"{key} was archived {n} times" for key, n in ids.items() if n > 1)


def _of_rewards(trained: Sequence[TraceGroup]) -> Iterator[str]:
    """The reward of these runs is at least 1 for whatever text: a 0 was made of a failure."""
    for group in trained:
        if not group.traces:
            yield f"{group.group_id} has no trace: {group.failures[0].reason}"
        for trace in group.traces:
            if isinstance(trace.outcome, Score) and trace.outcome.total < 1:
                yield f"a trace of {group.group_id} has reward {trace.outcome.total:g}"


def lines_of(log: str, pattern: str) -> list[str]:
    """Lines of a run's log that match."""
    return [line for line in log.splitlines() if re.search(pattern, line)]
