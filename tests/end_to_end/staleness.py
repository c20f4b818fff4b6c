"""Staleness of what a run has trained, from its archive and the places that its steps took. (No
test file.)

    places of a step (metrics) -> their groups (archive) -> version updated - oldest of a trace
"""

from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.runs import metrics
from wire.archive.archive import read_groups
from wire.types import Purpose


class Trained(NamedTuple):
    """One trace that a step took."""

    step: int
    place: int
    lag: int
    """Versions from its oldest token to the weights that the step updated."""
    num_versions: int
    """Versions that wrote it."""


def trained_traces(run_dir: Path, stage: str) -> list[Trained]:
    """All traces that the steps of a stage took, in the order of their places."""
    groups = {
        int(group.group_id.rsplit("/", 1)[1]): group
        for group in read_groups(run_dir / "archive", Purpose.TRAIN)
        if group.group_id.startswith(f"{stage}/")
    }
    start = groups[0].policy_version.step  # the first step is always on-policy
    traces, begin = list[Trained](), 0
    for row in metrics(run_dir, stage):
        updated, end = start + row["step"] - 1, int(row["rollout/next_place"])
        for place in range(begin, end):
            for one in (trace.completion for trace in groups[place].traces):
                lag = updated - one.policy_version.step
                traces.append(Trained(row["step"], place, lag, 1 + len(one.version_changes)))
        begin = end
    return traces
