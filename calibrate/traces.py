"""Traces of a policy, one group per sample: small facts in memory, the groups where they are kept.

    TraceGroups, on disk or in memory -> TraceSet -> facts       (labels, counts; no text or token)
                                                  -> examples()  (read when they are asked for)

A calibration of 200k traces works with these; no stage of it holds all texts or token ids.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Self, TypeVar, overload

from wire.labels import LabelSet, reasoning_in
from wire.types import PolicyVersion, Sample, TraceGroup

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictExample:
    """One trace, and the label that the verdict should give on reading it; or the video alone, for
    the control that classifies without a trace.

    Example:
        VerdictExample(sample=sample, trace="<think>...</think><answer>normal</answer>",
        label="abnormal")
    """

    sample: Sample
    trace: str | None
    """The trace as the policy wrote it, whole; it may be wrong or malformed. None: the video
    alone."""
    label: str
    """The clip's true label."""


class OnDemand(Sequence[T]):
    """A sequence whose items are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "list[T]": ...
    def __getitem__(self, index: int | slice) -> "T | list[T]":
        if isinstance(index, slice):
            return [self._make(number) for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._make(index % self._count)


class VerdictExamples(OnDemand[VerdictExample]):
    """Examples for a verdict, each made when it is asked for."""

    def __init__(self, samples: Sequence[Sample], traces: Sequence[str] | None) -> None:
        """``samples``: one per example; ``traces``: those shown; None: the videos alone."""
        self.samples = samples
        self.has_traces = traces is not None

        def make(number: int) -> VerdictExample:
            sample = samples[number]
            trace = None if traces is None else traces[number]
            return VerdictExample(sample=sample, trace=trace, label=sample.label)

        super().__init__(len(samples), make)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What is kept in memory of a group.

    Example:
        GroupFacts(sample=sample, versions=frozenset({version}), answers=("normal", None),
                   num_parsed=1, num_tokens=214)
    """

    sample: Sample
    versions: frozenset[PolicyVersion]
    """Of the policies that wrote the group and its traces."""
    answers: tuple[str | None, ...]
    """The label that each trace answers; None: none of them."""
    num_parsed: int
    """Traces whose reasoning and answer a verdict can be shown."""
    num_tokens: int
    """Of all its traces."""

    @classmethod
    def of(cls, group: TraceGroup, labels: LabelSet, sample: Sample | None = None) -> Self:
        """The facts of a group; ``sample``: an equal one that is in memory anyway."""
        completions = [trace.completion for trace in group.traces]
        return cls(
            sample=sample or group.sample,
            versions=_shared(
                frozenset([group.policy_version, *(c.policy_version for c in completions)])
            ),
            answers=tuple(labels.answer_in(completion.text) for completion in completions),
            num_parsed=sum(is_parsed(completion.text, labels) for completion in completions),
            num_tokens=sum(len(completion.token_ids) for completion in completions),
        )


def is_parsed(trace: str, labels: LabelSet) -> bool:
    """Whether the verdict prompt can show reasoning and conclusion (``rollout/prompt.py``)."""
    return labels.answer_in(trace) is not None and reasoning_in(trace) is not None


@lru_cache(256)
def _shared(versions: frozenset[PolicyVersion]) -> frozenset[PolicyVersion]:
    """One set in memory for all groups of the same versions."""
    return versions


class TraceSet:
    """Traces of a policy, one group per sample, in the order of the samples."""

    def __init__(self, facts: Sequence[GroupFacts], groups: Sequence[TraceGroup]) -> None:
        """``groups``: read from where they are kept when they are asked for, best in order."""
        self.facts, self.groups = facts, groups

    @classmethod
    def of(cls, groups: Sequence[TraceGroup], labels: LabelSet) -> Self:
        """Of groups that are in memory."""
        return cls([GroupFacts.of(group, labels) for group in groups], groups)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def samples(self) -> list[Sample]:
        """The sample of each group."""
        return [one.sample for one in self.facts]

    @property
    def num_traces(self) -> int:
        """Number of all traces."""
        return sum(len(one.answers) for one in self.facts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all traces."""
        return sum(one.num_tokens for one in self.facts)

    @property
    def num_failed(self) -> int:
        """Number of groups without a trace."""
        return sum(not one.answers for one in self.facts)

    def of_samples(self, ids: Collection[str]) -> "TraceSet":
        """The groups of these samples, in their order here."""
        places = [n for n, facts in enumerate(self.facts) if facts.sample.id in ids]
        groups = OnDemand(len(places), lambda number: self.groups[places[number]])
        return TraceSet([self.facts[place] for place in places], groups)

    def examples(self) -> VerdictExamples:
        """One example per trace in the groups' order: right, wrong, malformed or unscored, none is
        dropped."""
        ends = list(accumulate(len(one.answers) for one in self.facts))
        samples = [one.sample for one in self.facts for _ in one.answers]

        def text(number: int) -> str:
            place = bisect_right(ends, number)
            first = ends[place] - len(self.facts[place].answers)
            return self.groups[place].traces[number - first].completion.text

        return VerdictExamples(samples, OnDemand(len(samples), text))
