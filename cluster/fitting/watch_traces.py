"""Traces of a candidate, from the archive of a run that trains: what it learns from, and the val
traces that it is chosen and calibrated on.

    training groups of the last versions, one group per clip -> learned
    val groups of the version itself, one trace each         -> val
    none                                                     -> held out, test
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from calibrate.fit import FitTraces
from calibrate.traces import TraceSet
from cluster.fitting.watch import CandidateFit
from wire.archive.follower import ArchiveFollower
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import Purpose, TraceGroup


def candidate_traces(run: Path, stage: str, order: CandidateFit, labels: LabelSet) -> FitTraces:
    """Traces of a version's candidate, all in memory; none of a test clip. Raises DataError if
    there is none to learn from yet, ArchiveError."""
    archive = run / "archive"
    trained = ArchiveFollower(archive, Purpose.TRAIN, order.learn_from).new_groups()
    learned = _by_sample(group for group in trained if group.group_id.startswith(f"{stage}/"))
    if not any(group.traces for group in learned):
        raise DataError(
            f"no training trace of version {order.version} or of those before it is in {archive} "
            "yet; a higher --versions looks further back"
        )
    answered = ArchiveFollower(archive, Purpose.VALIDATION, {order.version}).new_groups()
    prefix = f"{stage}/{Purpose.VALIDATION}/"
    val = _by_sample(group for group in answered if group.group_id.startswith(prefix))
    nothing = TraceSet([], [])
    return FitTraces(
        learned=TraceSet.of(learned, labels),
        val=TraceSet.of(val, labels),
        held_out=nothing,
        test=nothing,
    )


def _by_sample(groups: Iterable[TraceGroup]) -> list[TraceGroup]:
    """One group per sample, in the order of their ids, with the traces of all; those to another
    prompt than its newest group's are left out."""
    of_sample: dict[str, list[TraceGroup]] = {}
    for group in sorted(groups, key=lambda group: (group.policy_version, group.group_id)):
        of_sample.setdefault(group.sample.id, []).append(group)
    return [_joined(of_sample[name]) for name in sorted(of_sample)]


def _joined(groups: list[TraceGroup]) -> TraceGroup:
    answered = [group for group in groups if group.traces]
    if not answered:
        return groups[-1]
    newest = answered[-1]
    traces = [trace for one in answered if one.prompt == newest.prompt for trace in one.traces]
    return replace(newest, traces=tuple(traces))
