"""Records of several files -> one clip each, with one label that nothing contradicts.

    Records -> by id -> label, trace, side text, videos -> Clips

A clip in two splits is always an error. What contradicts a label is an error too, unless the user
says which way out: ``skip`` leaves the clip out, ``keep`` believes the first that is said.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rollout.importers.record import Reasoning, Record, Window
from rollout.importers.report import Tally
from rollout.manifest import raise_if_any
from wire.errors import DataError
from wire.types import Split

OnConflict = Literal["error", "skip", "keep"]
T = TypeVar("T")

CONTRADICTED = "clips left out: something contradicts their label"
KEPT = "labels kept although something contradicts them"
OTHER_ANSWER = "traces dropped: they conclude with another label than the clip's"
NO_LABEL_ANSWER = "traces dropped: they conclude with no label of the task"
SECOND_TRACE = "second traces dropped: the first is kept"
TEST_TRACE = "traces dropped: a test clip needs none"

_RATIO = "by ratio"
# More contradictions than this share, and a ground_truth that never varies is not a label.
_CONSTANT_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Source of a record, and the split that the user gave to all of it.

    Example:
        Source(address="data/test.json", name="test.json", split=Split.TEST)
    """

    address: str
    name: str
    split: Split | None = None
    """None: the records' own, or divided by ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip, joined from all records about it.

    Example:
        Clip(id="porch_0007", split=Split.TRAIN, label="normal", videos=("/x/porch_0007.mp4",),
             sources=("labels.json",))
    """

    id: str
    split: Split | None
    """None: divided by ratio, later."""
    label: str
    videos: tuple[str, ...]
    """As written in the sources, the first first."""
    base: str = "."
    """Folder or URL of the first source, where its relative paths start."""
    sources: tuple[str, ...]
    """Names of the files that describe it."""
    trace: str | None = None
    side_text: Mapping[str, str] = field(default_factory=dict)
    window: Window | None = None
    untrimmed: tuple[str, ...] = ()
    """Names of a longer video, of which the sources' times, that were not asked for, are a part."""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourcedRecord:
    """A record and the source it stands in."""

    source: Source
    record: Record
    base: str = "."

    @property
    def split(self) -> Split | None:
        """The source's own or the user's; settled before, they are never two."""
        return self.record.split or self.source.split


def join(
    records: Sequence[SourcedRecord], defined: Iterable[str], on_conflict: OnConflict, tally: Tally
) -> list[Clip]:
    """One clip per id, in order of first appearance; ``defined`` labels give the spelling.

    Raises DataError listing the clips in two splits, without label, or contradicted.
    """
    groups: dict[str, list[SourcedRecord]] = defaultdict(list)
    for item in records:
        groups[item.record.id].append(item)
        for note in item.record.notes:
            tally.add(note, item.record.id)
    raise_if_any("a clip must be in one split only", _leaks(groups))
    _refuse_constant_truth(groups.values())
    spelling = _spelling(records, defined)
    settle_conflicts(
        groups, {name: _conflicts(group) for name, group in groups.items()}, on_conflict, tally
    )
    return [_clip(group, spelling, tally) for group in groups.values()]


def settle_conflicts(
    clips: dict[str, T],
    conflicts: Mapping[str, Sequence[str]],
    on_conflict: OnConflict,
    tally: Tally,
) -> None:
    """Settle contradicted clips as the user asked: raise, remove from ``clips``, or keep."""
    contradicted = {name: reasons for name, reasons in conflicts.items() if reasons}
    if on_conflict == "error":
        lines = [f"{name}: {', '.join(reasons)}" for name, reasons in contradicted.items()]
        raise_if_any(
            f"{len(contradicted)} of {len(clips)} clips contradict themselves (leave them out with "
            "--on-conflict skip, or believe what is said first with --on-conflict keep)",
            lines,
        )
    for name in contradicted:
        tally.add(CONTRADICTED if on_conflict == "skip" else KEPT, name)
        if on_conflict == "skip":
            del clips[name]


def _leaks(groups: Mapping[str, Sequence[SourcedRecord]]) -> list[str]:
    faults = []
    for name, group in groups.items():
        splits = {item.split or _RATIO: item.record.where for item in group}
        if len(splits) > 1:
            places = [f"{split} ({where})" for split, where in splits.items()]
            faults.append(f"{name} is in {' and '.join(places)}")
    return faults


def _conflicts(group: Sequence[SourcedRecord]) -> list[str]:
    """Contradictions to the label of one clip."""
    records = [item.record for item in group]
    reasons = [
        f"{record.where} says {record.label!r} but {conflict}"
        for record in records
        for conflict in record.conflicts
    ]
    first: dict[object, str] = {}
    for item in group:
        before = first.setdefault(item.source.address, item.record.where)
        if before != item.record.where:
            reasons.append(f"it is in {before} and again in {item.record.where}")
    labels = _labels(records)
    if not labels:
        reasons.append(f"{records[0].where} gives no label")
    if len({label.casefold() for _, label in labels}) > 1:
        reasons.append(" but ".join(f"{where} says {label!r}" for where, label in labels))
    return reasons


def _labels(records: Iterable[Record]) -> list[tuple[str, str]]:
    """(place, label) of the records that are believed, the first first."""
    records = list(records)
    sure = [(record.where, record.label) for record in records if record.label]
    return sure or [(r.where, r.fallback_label) for r in records if r.fallback_label]


def _refuse_constant_truth(groups: Iterable[Sequence[SourcedRecord]]) -> None:
    """A fallback label that is the same everywhere, while many answers differ, is no label."""
    by_source: dict[object, list[Record]] = defaultdict(list)
    for group in groups:
        if not any(item.record.label for item in group):
            for item in group:
                by_source[item.source.address].append(item.record)
    for path, records in by_source.items():
        truths = {(record.fallback_label or "").casefold() for record in records}
        answers = [r.reasoning.answer.casefold() for r in records if r.reasoning]
        others = sum(answer not in truths for answer in answers)
        if len(truths) == 1 and others > _CONSTANT_SHARE * len(records):
            raise DataError(
                f"ground_truth in {path} says {truths.pop()!r} for all {len(records)} records, "
                f"but {others} of them conclude otherwise; give the file with the labels as well"
            )


def _spelling(records: Iterable[SourcedRecord], defined: Iterable[str]) -> dict[str, str]:
    """Folded label -> label as first written."""
    spelling: dict[str, str] = {}
    written = [item.record.label or item.record.fallback_label for item in records]
    for label in [*defined, *(label for label in written if label)]:
        spelling.setdefault(label.casefold(), label)
    return spelling


def _clip(group: Sequence[SourcedRecord], spelling: Mapping[str, str], tally: Tally) -> Clip:
    records = [item.record for item in group]
    labels = _labels(records)
    if not labels:  # kept, although it is a conflict: there is nothing to keep
        raise DataError(f"{records[0].where} gives no label; leave it out with --on-conflict skip")
    label = spelling[labels[0][1].casefold()]
    split = group[0].split
    trace = _trace(records, label, spelling, tally)
    if trace is not None and split is Split.TEST:
        tally.add(TEST_TRACE, records[0].id)
        trace = None
    return Clip(
        id=records[0].id,
        split=split,
        label=label,
        videos=tuple(dict.fromkeys(video for record in records for video in record.videos)),
        base=group[0].base,
        sources=tuple(dict.fromkeys(item.source.name for item in group)),
        trace=trace,
        side_text=_merged(record.side_text for record in records),
        window=next((record.window for record in records if record.window), None),
        untrimmed=tuple(name for record in records for name in record.untrimmed),
        columns=_merged(record.columns for record in records),
    )


def _merged(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """All entries; of several with one name the first."""
    merged: dict[str, T] = {}
    for part in parts:
        merged = {**part, **merged}
    return merged


def _trace(
    records: Sequence[Record], label: str, spelling: Mapping[str, str], tally: Tally
) -> str | None:
    """The first reasoning that concludes with ``label``, in our shape."""
    kept: Reasoning | None = None
    for record in records:
        reasoning = record.reasoning
        if reasoning is None:
            continue
        answer = reasoning.answer.casefold()
        if answer != label.casefold():
            tally.add(OTHER_ANSWER if answer in spelling else NO_LABEL_ANSWER, record.id)
        elif kept is None:
            kept = reasoning
        elif reasoning.text != kept.text:
            tally.add(SECOND_TRACE, record.id)
    return f"<think>{kept.text}</think><answer>{label}</answer>" if kept else None
