"""Traces of an archive for a fit: which groups are learned from, and which answer clips as in use.

    archive -> index (no tokens) -> groups by use, split and version -> FitTraces, read when needed

The order of clips and traces is that of a run's stage, so that a fit of its archive is the same.
"""

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from calibrate.config import CalibrateConfig
from calibrate.fit import ANSWERED, FitTraces
from calibrate.splits import ClipParts
from calibrate.traces import GroupFacts, TraceSet
from cluster.config.arm_names import ARMS
from video.address import Address
from wire.archive.group_reader import GroupReader, GroupsOnDisk, Place
from wire.archive.parquet_files import scan
from wire.errors import DataError
from wire.labels import LabelSet
from wire.types import PolicyVersion, Purpose, Sample, Split

_COLUMNS = [
    "group_id",
    "attempt",
    "step",
    "purpose",
    "sample_id",
    "label",
    "split",
    "video",
    "trace_index",
]
_ANSWERS = (Purpose.EVALUATION, Purpose.VALIDATION)


class ArchivedGroup(NamedTuple):
    """What an archive's index says of a group."""

    group_id: str
    version: PolicyVersion
    purpose: Purpose
    sample: Sample
    """Without text, trace and further columns."""
    num_traces: int
    place: Place

    @property
    def owner(self) -> str:
        """Stage or arm that asked for it."""
        return self.group_id.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class TraceQuery:
    """Which traces of an archive a fit takes."""

    stage: str
    """Name of the calibration: of several groups that answer a clip its own are taken."""
    learn_from: Container[PolicyVersion]
    """Versions whose traces are learned from."""
    served: Container[PolicyVersion]
    """Versions that name the policy that is served: they answer val, held-out and test clips."""
    purpose: Purpose = Purpose.CALIBRATION
    """Of the traces learned from; ``train``: those of train clips that GRPO trained on."""
    test: Split | None = Split.TEST
    """The split that is measured; None: no such clip is read."""


def find_traces(
    archive: Path, query: TraceQuery, config: CalibrateConfig, labels: LabelSet
) -> FitTraces:
    """The traces of a fit, facts in memory, groups read when they are asked for. Raises DataError
    if there is none to learn from."""
    if query.purpose is Purpose.TRAIN:
        config = config.model_copy(update={"split": "train"})
    groups = _own(archive_groups(archive))
    learned = [g for g in groups if g.purpose is query.purpose and g.version in query.learn_from]
    answers = _answers(groups, query)
    known = {g.sample.id: g.sample for g in (*learned, *answers.values())}
    parts = ClipParts.of(known.values(), config, query.test or Split.TEST)
    ids = {sample.id for sample in parts.learned}
    chosen = sorted(
        (g for g in _preferred(learned, query.stage) if g.sample.id in ids),
        key=lambda g: (g.sample.id, g.version, g.group_id),
    )
    if not any(g.num_traces for g in chosen):
        raise DataError(_nothing(archive, groups, query))
    votes = {g.sample.id: g for g in learned if "vote" in config.sources}
    answered: dict[str, list[ArchivedGroup]] = {
        part: [answers[s.id] for s in getattr(parts, part) if s.id in answers] for part in ANSWERED
    }
    if query.test is None:
        answered["test"] = []

    def traces_of(some: list[ArchivedGroup]) -> TraceSet:
        reader = GroupReader({g.group_id: g.place for g in some})
        ids = [g.group_id for g in some]
        facts = [GroupFacts.of(reader.group(group_id), labels) for group_id in ids]
        return TraceSet(facts, GroupsOnDisk(reader, ids))

    voted = {
        part: [votes[g.sample.id] for g in some if g.sample.id in votes]
        for part, some in answered.items()
    }
    return FitTraces(
        learned=traces_of(chosen),
        **{part: traces_of(some) for part, some in answered.items()},
        votes={part: traces_of(some) for part, some in voted.items()} if voted["val"] else {},
    )


def archive_groups(archive: Path) -> list[ArchivedGroup]:
    """All groups in an archive's Parquet files, of each id the newest, in the order of their ids.
    Raises ArchiveError."""
    newest: dict[str, ArchivedGroup] = {}
    for path, number, table in scan(archive, _COLUMNS):
        for group in _indexed(table, Place(path, number)):
            newest[group.group_id] = group
    return [newest[group_id] for group_id in sorted(newest)]


def _indexed(table: pa.Table, place: Place) -> Iterator[ArchivedGroup]:
    counts: Mapping[str, int] = dict(
        zip(
            *(
                column.to_pylist()
                for column in table.group_by("group_id").aggregate([("trace_index", "count")])
            ),
            strict=True,
        )
    )
    index = table["trace_index"]
    first = table.filter(pc.or_kleene(pc.is_null(index), pc.equal(index, 0)))
    for row in first.to_pylist():
        yield ArchivedGroup(
            group_id=row["group_id"],
            version=PolicyVersion(attempt=row["attempt"], step=row["step"]),
            purpose=Purpose(row["purpose"]),
            sample=Sample(
                id=row["sample_id"],
                video=row["video"],
                label=row["label"],
                split=Split(row["split"]),
            ),
            num_traces=counts[row["group_id"]],
            place=place,
        )


def _own(groups: list[ArchivedGroup]) -> list[ArchivedGroup]:
    """Groups of stages, about the clips as they are: no control arm, no view, no narrative."""
    return [g for g in groups if g.owner not in ARMS and _is_video(g.sample.video)]


def _is_video(video: str) -> bool:
    address = Address.parse(video)
    return address.view is None and address.tokens is None


def _answers(groups: list[ArchivedGroup], query: TraceQuery) -> dict[str, ArchivedGroup]:
    """Sample id -> the group of at most one trace that answers it as in use: the calibration's own,
    else an evaluation before a validation, the newest of them."""
    rated = [
        ((g.owner == query.stage, g.purpose is Purpose.EVALUATION, g.version), g)
        for g in groups
        if g.purpose in _ANSWERS and g.num_traces <= 1 and g.version in query.served
    ]
    return {g.sample.id: g for _, g in sorted(rated, key=lambda pair: pair[0])}


def _preferred(groups: list[ArchivedGroup], stage: str) -> list[ArchivedGroup]:
    """The calibration's own groups, if it has any, else all."""
    return [g for g in groups if g.owner == stage] or groups


def _nothing(archive: Path, groups: Collection[ArchivedGroup], query: TraceQuery) -> str:
    there = sorted({str(g.version) for g in groups if g.purpose is query.purpose})
    shown = ", ".join(there[:8]) + (" ..." if len(there) > 8 else "")
    known = (
        f"traces for {query.purpose} are of versions {shown}"
        if there
        else (
            f"it has no traces for {query.purpose}, but for "
            f"{', '.join(sorted({g.purpose.value for g in groups})) or 'nothing'}"
        )
    )
    return (
        f"{archive} has no traces for {query.purpose} of the versions asked for: {known}; choose "
        "with --versions and --purpose"
    )
