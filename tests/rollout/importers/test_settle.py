"""Numbers of options, and bare answers, by all rows of a source together."""

import pytest

from rollout.importers.choices import NO_OPTION
from rollout.importers.record import LeftOut, Numbered, Reasoning, Record
from rollout.importers.settle import OWN_QUESTION, UNCLEAR_NUMBER, settle

TEXTS = ("fall", "jump", "sit")


def numbered(number: int) -> Record:
    return Record(id="a", where="row", videos=("a.mp4",), numbered=Numbered(number, TEXTS))


def answered(label: str, question: str) -> Record:
    return Record(id="a", where="row", videos=("a.mp4",), label=label, question=question)


def labels(*records: Record, **options: bool) -> list[str | None]:
    return [
        each.reason if isinstance(each, LeftOut) else each.label
        for each in settle(records, **options)
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 1, 2), ["fall", "jump", "sit"]),
        ((1, 3), ["fall", "sit"]),
        ((1, 2), [UNCLEAR_NUMBER] * 2),
        ((0, 3), [UNCLEAR_NUMBER] * 2),
        ((0, 7), ["fall", NO_OPTION]),
    ],
)
def test_all_rows_tell_where_numbers_start(numbers: tuple[int, ...], expected: list[str]) -> None:
    assert labels(*map(numbered, numbers)) == expected


def test_a_trace_that_concludes_with_a_number_concludes_with_its_option() -> None:
    trace = Reasoning(text="It sits.", answer="2")
    (record, _) = settle(
        [
            Record(id="a", where="r", videos=("a",), numbered=Numbered(2, TEXTS), reasoning=trace),
            numbered(0),
        ]
    )
    assert isinstance(record, Record)
    assert record.reasoning == Reasoning(text="It sits.", answer="sit")


@pytest.mark.parametrize("label", ["yes", "No", "true", "3", "B"])
def test_a_bare_answer_is_a_label_only_if_all_rows_ask_the_same(label: str) -> None:
    word = answered("run", "who?")
    assert labels(answered(label, "who?"), word) == [label, "run"]
    assert labels(answered(label, "where?"), word) == [OWN_QUESTION, "run"]
    assert labels(answered(label, ""), word) == [label, "run"]


def test_numbers_that_the_user_names_mean_the_same_in_every_row() -> None:
    rows = (answered("3", "where?"), answered("1", "who?"))
    assert labels(*rows, numbers_have_names=True) == ["3", "1"]
