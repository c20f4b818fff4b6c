"""Samples training groups for the report: groups of GRPO, and groups of the verdict.

    archive index -> steps spread over the run -> their groups -> the most telling few of each

Most telling: failed, then those with a signal (traces that earned different rewards), then all
wrong, then all right; labels take turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.controls import MainStages
from cluster.report.archived import ArchiveIndex, FailureFacts, GroupFacts, TraceFacts, collect
from cluster.report.clips import by_turns
from learner.config import GrpoLossConfig
from learner.objective.advantage import advantages_of
from wire.labels import LabelSet
from wire.types import Purpose

_NUM_STEPS = 8
_PER_STEP = 6
_NUM_CALIBRATION = 24
_MAX_CANDIDATES = 256
"""Most groups of one step to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTrace:
    """Trace of a group, with its reward and advantage."""

    written: TraceFacts
    answer: str | None
    """Label that the trace names; None: the trace cannot be parsed."""
    advantage: float | None
    """Advantage in GRPO; None if GRPO did not train on the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """Training group in the report."""

    group_id: str
    stage: str
    purpose: str
    version: str
    step: int
    """Step of the policy that wrote the group."""
    sample_id: str
    label: str
    video: str
    traces: tuple[GroupTrace, ...]
    failures: tuple[FailureFacts, ...]


def choose_steps(index: ArchiveIndex, count: int = _NUM_STEPS) -> list[tuple[int, int]]:
    """Choose (attempt, step) of policies spread over the run, first and last included."""
    steps = sorted(index.training)
    if len(steps) > count:
        places = {round(i * (len(steps) - 1) / (count - 1)) for i in range(count)}
        steps = [steps[place] for place in sorted(places)]
    return [(index.training[step], step) for step in steps]


def group_records(
    archive: Path,
    index: ArchiveIndex,
    labels: LabelSet,
    loss: GrpoLossConfig,
    main: MainStages,
) -> list[GroupRecord]:
    """Records of the groups in the report, by stage and step: those of the run's GRPO and of its
    calibration. Raises ArchiveError."""
    candidates: dict[tuple[int, int] | str, list[GroupFacts]] = {
        place: [] for place in choose_steps(index)
    }
    candidates[Purpose.CALIBRATION] = []
    archived = collect(
        archive,
        lambda key: (
            (
                (key.purpose == Purpose.TRAIN and key.stage == main.grpo)
                and len(candidates.get((key.attempt, key.step), ())) < _MAX_CANDIDATES
                and (key.attempt, key.step) in candidates
            )
            or (
                (key.purpose == Purpose.CALIBRATION and key.stage == main.calibrated)
                and index.is_current(key)
                and len(candidates[Purpose.CALIBRATION]) < _MAX_CANDIDATES
            )
        ),
    )
    for group in archived:
        is_training = group.key.purpose == Purpose.TRAIN
        place = (group.key.attempt, group.key.step) if is_training else Purpose.CALIBRATION
        candidates[place].append(group)
    chosen = [
        group
        for place, groups in candidates.items()
        for group in _most_telling(
            groups, _NUM_CALIBRATION if place == Purpose.CALIBRATION else _PER_STEP
        )
    ]
    return [_record(group, labels, loss) for group in chosen]


def _most_telling(groups: Sequence[GroupFacts], count: int) -> list[GroupFacts]:
    kinds: list[list[GroupFacts]] = [[], [], [], []]
    for group in groups:
        kinds[_kind(group)].append(group)
    ordered = [g for kind in kinds for g in by_turns(kind, [group.sample.label for group in kind])]
    return ordered[:count]


def _kind(group: GroupFacts) -> int:
    rewards = [trace.reward for trace in group.traces if trace.reward is not None]
    if group.key.failed or not rewards:
        return 0
    if max(rewards) > min(rewards):
        return 1
    return 2 if group.traces[0].parts.get("accuracy", 1.0) <= 0 else 3


def _record(group: GroupFacts, labels: LabelSet, loss: GrpoLossConfig) -> GroupRecord:
    is_training = group.key.purpose == Purpose.TRAIN
    advantages: Sequence[float | None] = (
        advantages_of([trace.reward for trace in group.traces], loss)
        if is_training
        else [None] * len(group.traces)
    )
    return GroupRecord(
        group_id=group.key.group_id,
        stage=group.key.stage,
        purpose=group.key.purpose,
        version=f"{group.key.attempt}.{group.key.step}",
        step=group.key.step,
        sample_id=group.key.sample_id,
        label=group.sample.label,
        video=group.sample.video,
        traces=tuple(
            GroupTrace(
                written=trace,
                answer=labels.answer_in(trace.text),
                advantage=advantage if trace.reward is not None else None,
            )
            for trace, advantage in zip(group.traces, advantages, strict=True)
        ),
        failures=group.failures,
    )
