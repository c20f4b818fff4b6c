from collections.abc import Sequence

import pytest

from calibrate.traces import GroupFacts, OnDemand, TraceSet, VerdictExamples
from tests.groups import make_completion, make_group, make_sample
from wire.labels import Label, LabelSet
from wire.types import Score, Trace, TraceGroup

LABELS = LabelSet(labels=(Label(name="fall"), Label(name="walk")))
FALL = "<think>down</think><answer>fall</answer>"
BARE = "<answer>walk</answer>"


def group(name: str, *texts: str) -> TraceGroup:
    traces = [
        Trace(completion=make_completion(text, num_tokens=3), outcome=Score(total=1.0, parts={}))
        for text in texts
    ]
    return make_group(*traces, group_id=name, sample=make_sample("fall", id=name))


class Counted(Sequence[TraceGroup]):
    """Groups that count how often they are read."""

    def __init__(self, groups: Sequence[TraceGroup]) -> None:
        self._groups, self.read = groups, list[int]()

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index):
        self.read.append(index)
        return self._groups[index]


GROUPS = [group("a", FALL, BARE), group("b"), group("c", "?", FALL, FALL)]


def test_facts_say_what_figures_need_without_a_text() -> None:
    facts = [GroupFacts.of(one, LABELS) for one in GROUPS]
    assert [one.answers for one in facts] == [("fall", "walk"), (), (None, "fall", "fall")]
    assert [one.num_parsed for one in facts] == [1, 0, 2]
    assert [one.num_tokens for one in facts] == [6, 0, 9]
    assert facts[0].versions is facts[2].versions, "shared by all groups"


def test_examples_are_read_when_they_are_asked_for_each_once() -> None:
    counted = Counted(GROUPS)
    traces = TraceSet([GroupFacts.of(one, LABELS) for one in GROUPS], counted)
    examples = traces.examples()
    assert (len(traces), traces.num_traces, traces.num_failed, traces.num_tokens) == (3, 5, 1, 15)
    assert (len(examples), counted.read) == (5, [])
    assert [sample.id for sample in examples.samples] == ["a", "a", "c", "c", "c"]
    assert [one.trace for one in examples] == [FALL, BARE, "?", FALL, FALL]
    assert counted.read == [0, 0, 2, 2, 2]
    assert [(one.sample.id, one.trace) for one in examples[1:3]] == [("a", BARE), ("c", "?")]
    assert (examples[-1].sample.id, examples[-1].label) == ("c", "fall")


def test_a_sequence_on_demand_ends_where_it_should() -> None:
    numbers = OnDemand(3, lambda number: number * 10)
    assert list(numbers) == [0, 10, 20]
    assert numbers[1:] == [10, 20]
    for bad in (3, -4):
        with pytest.raises(IndexError):
            numbers[bad]
    (example,) = VerdictExamples([make_sample("walk")], None)
    assert (example.trace, example.label) == (None, "walk")
