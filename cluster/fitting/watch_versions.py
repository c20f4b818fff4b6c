"""Versions of a policy in training, measured on val by the traces that its run has archived.

    metrics.jsonl (a validation has ended) + archive (its traces) -> MeasuredVersion

Only what the run itself wrote of val clips is read: no clip, no manifest, no test row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.compare import Comparison, compare
from calibrate.predictions import Prediction
from calibrate.traces import TraceSet
from calibrate.verdict import first_answers
from cluster.metrics.metrics_file import Row, current_rows, is_validation, read_rows
from cluster.run_files import read_history
from cluster.stages.answer_figures import answer_figures
from wire.archive.follower import ArchiveFollower
from wire.labels import LabelSet
from wire.types import PolicyVersion, Purpose, TraceGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredVersion:
    """A version of the policy with its answers on the val clips.

    Example:
        MeasuredVersion(version=PolicyVersion(attempt=0, step=41), step=40, num_asked=128,
                        figures={"val/accuracy": 0.71}, answers=answers)
    """

    version: PolicyVersion
    step: int
    """Step of the stage whose weights these are; 0: those that it started from."""
    num_asked: int
    """Clips that the run validated with; of deleted videos the archive has no trace any more."""
    measured_at: float
    """When the run logged it, in seconds since 1970."""
    figures: Mapping[str, float]
    answers: Sequence[Prediction]

    def against(self, other: "MeasuredVersion") -> Comparison | None:
        """Accuracy against another version's on the clips of both; None if they share none."""
        shared = {one.sample_id for one in self.answers} & {one.sample_id for one in other.answers}
        if not shared:
            return None
        mine, theirs = (
            [one for one in version.answers if one.sample_id in shared] for version in (self, other)
        )
        return compare(theirs, mine)


class ValMeasurements:
    """Measurements of a stage's versions, as its run goes on."""

    def __init__(self, run: Path, stage: str, labels: LabelSet) -> None:
        self._run, self._stage, self._labels = run, stage, labels
        self._follower = ArchiveFollower(run / "archive", Purpose.VALIDATION)
        self._groups: dict[PolicyVersion, dict[str, TraceGroup]] = {}
        self._steps: dict[PolicyVersion, int] = {}
        self._given: set[PolicyVersion] = set()

    def new(self) -> list[MeasuredVersion]:
        """Versions whose validation has ended since the last call, in the order of training. Raises
        ArchiveError."""
        ended = self._ended()  # first: their traces are then in the archive
        for group in self._follower.new_groups():
            self._take(group)
        whole = [v for v in self._groups if (v.attempt, self._steps[v]) in ended]
        return [self._measured(v, ended) for v in sorted(whole) if v not in self._given]

    def _ended(self) -> dict[tuple[int, int], Row]:
        """Attempt and step of each validation that has ended, with its row; without those of a
        training that a resume has replaced."""
        rows = current_rows(
            read_rows(self._run / "metrics.jsonl"), read_history(self._run).beginnings
        )
        return {
            (int(row["attempt"]), int(row["step"])): row
            for row in rows
            if row["stage"] == self._stage and is_validation(row)
        }

    def _take(self, group: TraceGroup) -> None:
        step = _step_of(self._stage, group.group_id)
        if step is not None:
            self._steps[group.policy_version] = step
            self._groups.setdefault(group.policy_version, {})[group.group_id] = group

    def _measured(
        self, version: PolicyVersion, ended: Mapping[tuple[int, int], Row]
    ) -> MeasuredVersion:
        groups = list(self._groups.pop(version).values())
        self._given.add(version)
        step = self._steps[version]
        row = ended[version.attempt, step]
        return MeasuredVersion(
            version=version,
            step=step,
            num_asked=int(row.get("val/num_clips") or len(groups)),
            measured_at=float(row.get("time") or 0.0),
            figures=answer_figures(groups, self._labels),
            answers=tuple(first_answers(TraceSet.of(groups, self._labels))),
        )


def _step_of(stage: str, group_id: str) -> int | None:
    """The step in the id of a stage's validation group; None for another's."""
    prefix = f"{stage}/{Purpose.VALIDATION}/"
    if not group_id.startswith(prefix):
        return None
    step = group_id.removeprefix(prefix).partition("/")[0]
    return int(step) if step.isdigit() else None
