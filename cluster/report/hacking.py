"""Report section on reward hacking: what the guards saw of each training, with traces to look at.

curves -> each signal's state, in words; the steps at which its warning stood
the groups of the last such step, from the archive -> a few traces that show it
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from cluster.report.archived import GroupFacts, GroupKey, TraceFacts, collect
from cluster.report.curves import StageCurves
from reward.hacking import TraceReader
from reward.hacking_alerts import SIGNALS, Signal
from rollout.message import Message
from rollout.prompt import Prompts
from wire.types import Purpose

_NUM_EXAMPLES = 3
_MAX_GROUPS = 128
"""Groups of a step that are looked at."""
_MAX_CHARS = 1500
"""Of the trace of an example."""

Suspect = tuple[GroupFacts, TraceFacts, str]
"""A trace, with what is odd about it."""
Finder = Callable[[Sequence[GroupFacts], TraceReader, float], list[Suspect]]
"""Finds traces that show a signal, the most telling first; the number is the signal's figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A trace that shows a signal."""

    sample_id: str
    label: str
    answer: str | None
    tokens: int
    reward: float | None
    parts: dict[str, float]
    text: str
    note: str
    """What is odd about it, where the trace alone does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRecord:
    """One signal over a training."""

    name: str
    title: str
    figure: str
    limits: tuple[float, ...]
    why: str
    says: str
    """In words: at the last step of a warning; without one, at the last step."""
    spans: tuple[tuple[int, int], ...]
    """First and last step of each stretch over which a warning stood."""
    stands: bool
    """At the last step."""
    known: bool
    """Whether any step has its figure: without one nothing was judged."""
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageGuards:
    """A stage or control arm that was watched."""

    stage: str
    signals: tuple[SignalRecord, ...]


def guard_records(
    curves: Sequence[StageCurves], archive: Path, reader: TraceReader, prompts: Prompts
) -> list[StageGuards]:
    """Of every training with figures of the guards. Raises ArchiveError."""
    finders: dict[str, Finder] = {**_FINDERS, "label_in_prompt": partial(_names_the_label, prompts)}
    return [
        StageGuards(
            stage=stage.name,
            signals=tuple(_record(signal, stage, archive, reader, finders) for signal in SIGNALS),
        )
        for stage in curves
        if any(name.startswith("guard/") for name in stage.kept.values)
    ]


def _record(
    signal: Signal,
    stage: StageCurves,
    archive: Path,
    reader: TraceReader,
    finders: Mapping[str, Finder],
) -> SignalRecord:
    steps, values = stage.kept.steps, stage.kept.values
    flags = [bool(flag) for flag in values.get(signal.flag, [None] * len(steps))]
    shown = [at for at, value in enumerate(values.get(signal.figure, ())) if value is not None]
    warned = [at for at in shown if flags[at]]
    examples: list[Example] = []
    says = signal.absent
    if shown:
        at = (warned or shown)[-1]
        figures = {name: one[at] or 0.0 for name, one in values.items() if one[at] is not None}
        says = signal.says(figures)
        if warned:
            groups = _groups_of(stage, at, archive)
            suspects = finders[signal.name](groups, reader, figures[signal.figure])
            examples = [_example(reader, *one) for one in suspects[:_NUM_EXAMPLES]]
    return SignalRecord(
        name=signal.name,
        title=signal.title,
        figure=signal.figure,
        limits=tuple(limit for limit in (signal.low, signal.high) if limit is not None),
        why=signal.why,
        says=says,
        spans=tuple(_spans(steps, flags)),
        stands=bool(flags and flags[-1]),
        known=bool(shown),
        examples=tuple(examples),
    )


def _spans(steps: Sequence[int], flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    for flag, members in groupby(zip(steps, flags, strict=True), key=lambda pair: pair[1]):
        if flag:
            inside = [step for step, _ in members]
            yield inside[0], inside[-1]


def _groups_of(stage: StageCurves, at: int, archive: Path) -> list[GroupFacts]:
    """The groups that the step at that point took, by the places that it took; of a place that was
    written twice, the newer."""
    cursor = stage.kept.values.get("rollout/next_place")
    if cursor is None or (end := cursor[at]) is None:
        return []
    start = (cursor[at - 1] or 0.0) if at else 0.0

    def wanted(key: GroupKey) -> bool:
        if key.stage != stage.name or key.purpose != Purpose.TRAIN:
            return False
        place = key.group_id.rpartition("/")[2]
        return place.isdigit() and max(start, end - _MAX_GROUPS) <= int(place) < end

    newest: dict[str, GroupFacts] = {}
    for group in collect(archive, wanted):
        known = newest.get(group.key.group_id)
        if known is None or known.key.attempt <= group.key.attempt:
            newest[group.key.group_id] = group
    return [group for group in newest.values() if group.traces]


def _by_length(groups: Sequence[GroupFacts], reader: TraceReader, ratio: float) -> list[Suspect]:
    """The longest, or the shortest, of each group."""
    sign = 1 if ratio > 1 else -1
    ends = [(g, max(g.traces, key=lambda trace: sign * trace.num_tokens)) for g in groups]
    ends.sort(key=lambda pair: -sign * pair[1].num_tokens)
    return [(group, trace, "") for group, trace in ends]


def _paid_for_form(
    groups: Sequence[GroupFacts], reader: TraceReader, value: float
) -> list[Suspect]:
    return [
        (group, trace, "")
        for group in groups
        for trace in group.traces[:1]
        if reader.keeps_format(trace.parts)
        and not reader.is_right(group.sample.label, trace.text, trace.parts)
    ]


def _of_one_label(groups: Sequence[GroupFacts], reader: TraceReader, value: float) -> list[Suspect]:
    """The most frequent answer, where it is wrong."""
    answers = Counter(
        answer for g in groups for trace in g.traces if (answer := reader.answer(trace.text))
    )
    most = next((answer for answer, _ in answers.most_common(1)), None)
    return [
        (group, trace, "")
        for group in groups
        for trace in group.traces[:1]
        if reader.answer(trace.text) == most != group.sample.label
    ]


def _repeated(groups: Sequence[GroupFacts], reader: TraceReader, value: float) -> list[Suspect]:
    return [
        (group, group.traces[0], f"all {len(group.traces)} traces of its group are this one")
        for group in groups
        if len(group.traces) > 1
        and len({trace.text for trace in group.traces}) == 1
        and not reader.is_right(group.sample.label, group.traces[0].text, group.traces[0].parts)
    ]


def _names_the_label(
    prompts: Prompts, groups: Sequence[GroupFacts], reader: TraceReader, value: float
) -> list[Suspect]:
    """Groups whose prompt names the label in lines that no other sample's prompt need have."""
    known = Counter(_lines(prompts.bare()))
    suspects = []
    for group in groups:
        own = "\n".join((Counter(_lines(prompts.trace(group.sample))) - known).elements())
        if reader.words.named_in(own) == {group.sample.label}:
            suspects.append((group, group.traces[0], f"its prompt says: {own[:_MAX_CHARS]}"))
    return suspects


def _lines(messages: Sequence[Message]) -> list[str]:
    return [line for message in messages for line in message.text.splitlines()]


_FINDERS: dict[str, Finder] = {
    "length_drift": _by_length,
    "format_only": _paid_for_form,
    "one_label": _of_one_label,
    "identical_traces": _repeated,
}


def _example(reader: TraceReader, group: GroupFacts, trace: TraceFacts, note: str) -> Example:
    cut = trace.text[:_MAX_CHARS]
    return Example(
        sample_id=group.key.sample_id,
        label=group.sample.label,
        answer=reader.answer(trace.text),
        tokens=trace.num_tokens,
        reward=trace.reward,
        parts=trace.parts,
        text=cut if len(cut) == len(trace.text) else f"{cut} [...]",
        note=note[:_MAX_CHARS],
    )
