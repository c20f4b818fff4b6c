from collections.abc import Collection, Sequence

import pytest

from rollout.rationales.judge import Judge, Written
from rollout.rationales.rationale import Dropped, Rationale
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

LABELS = LabelSet(labels=tuple(Label(name=name) for name in ("fall", "walk", "walk away")))
SAMPLE = Sample(id="a", video="a.mp4", label="fall", split=Split.TRAIN)
GOOD = "He slips and lies still.\nClassification: fall"
ALL = tuple(Dropped)


def make(filters: Collection[Dropped] = ALL, *, asks_label: bool = True) -> Judge:
    return Judge(LABELS, filters, asks_label=asks_label, closing="Classification")


def judged(
    judge: Judge, *texts: str, truncated: Sequence[int] = (), sample: Sample = SAMPLE
) -> list[Rationale]:
    written = [Written(text, index in truncated) for index, text in enumerate(texts)]
    return list(judge.judge(sample, written, f"why/rationale/{sample.id}"))


def reason(text: str, *, truncated: bool = False, filters: Collection[Dropped] = ALL) -> str:
    (one,) = judged(make(filters), text, truncated=[0] if truncated else [])
    assert one.kept == (not one.reason)
    return one.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, ""),
        ("He slips.\nClassification: walk", "contradiction"),
        ("He slips.\n**Classification: walk**\n\nClassification: fall", "contradiction"),
        ("He slips.\nClassification:\n\nClassification: fall", ""),
        ("He slips and that is a fall.", "parse"),
        ("The given label fits, he slips.\nClassification: fall", "leak"),
        (" \n", "empty"),
        ("Classification: fall", "empty"),
        ("<think></think><answer>fall</answer>", "empty"),
    ],
)
def test_each_reason_drops_a_rationale(text: str, expected: str) -> None:
    assert reason(text) == expected
    if expected and expected != "empty":
        assert reason(text, filters=set(ALL) - {Dropped(expected)}) == ""


def test_a_truncated_rationale_is_dropped_whatever_it_says() -> None:
    assert reason(GOOD, truncated=True) == "truncated"
    assert reason("The given label is", truncated=True) == "truncated"
    assert reason(GOOD, truncated=True, filters=()) == ""


def test_the_first_reason_that_drops_is_named() -> None:
    text = "As stated he slips.\nClassification: walk"
    assert reason(text) == "leak"
    assert reason(text, filters=[Dropped.CONTRADICTION]) == "contradiction"


def test_an_empty_text_is_never_kept() -> None:
    assert reason("", filters=()) == "empty"


def test_of_equal_texts_of_a_clip_the_first_that_is_kept_stays() -> None:
    judge = make()
    rationales = judged(judge, GOOD, GOOD, GOOD.replace(" slips", "  SLIPS"), "He falls.\n" + GOOD)
    assert [one.reason for one in rationales] == ["", "duplicate", "duplicate", ""]
    assert [one.index for one in rationales] == [0, 1, 2, 3]
    cut_first = judged(make(), GOOD, GOOD, truncated=[0])
    assert [one.reason for one in cut_first] == ["truncated", ""]
    other_clip = judged(
        judge, GOOD, sample=Sample(id="b", video="b", label="fall", split=Split.TRAIN)
    )
    assert [one.kept for one in other_clip] == [True]


def test_a_rationale_says_what_it_is_of() -> None:
    (one,) = judged(make(), GOOD)
    assert one == Rationale(
        id="a",
        video="a.mp4",
        label="fall",
        text=GOOD,
        answer="fall",
        kept=True,
        reason="",
        group_id="why/rationale/a",
        index=0,
    )


def test_a_caption_is_asked_for_no_label_and_contradicts_none() -> None:
    judge = make(asks_label=False)
    rationales = judged(judge, "A man lies on the floor.", "Classification: walk", " ")
    assert [(one.answer, one.reason) for one in rationales] == [
        (None, ""),
        (None, ""),
        (None, "empty"),
    ]
    assert judge.counts.figures()["filters"]["contradiction"]["num"] == 0


def test_every_reason_is_counted_whether_it_drops_or_not() -> None:
    texts = (
        GOOD,
        GOOD,
        "He was given a stick.\nClassification: walk",
        "As stated, he slips.\nClassification: walk",
        "He walks away.",
    )
    on, off = make(), make(())
    for judge in (on, off):
        judged(judge, *texts)
    strict, free = on.counts.figures(), off.counts.figures()
    for name, num, frac in (("contradiction", 2, 0.4), ("leak", 1, 0.2), ("parse", 1, 0.2)):
        assert (strict["filters"][name]["num"], free["filters"][name]["num"]) == (num, num)
        assert strict["filters"][name]["frac"] == free["filters"][name]["frac"] == frac
        assert (strict["filters"][name]["on"], free["filters"][name]["on"]) == (True, False)
    dropped = {name: one["num_dropped"] for name, one in strict["filters"].items()}
    assert dropped == {
        **{"empty": 0, "truncated": 0, "leak": 1, "parse": 1},
        **{"contradiction": 1, "duplicate": 1},
    }
    assert (strict["num_written"], strict["num_kept"], strict["kept_frac"]) == (5, 1, 0.2)
    assert (free["num_kept"], free["num_clips_kept"]) == (5, 1)
    assert sum(dropped.values()) + strict["num_kept"] == strict["num_written"]
    assert (strict["answered_frac"], strict["right_frac"]) == (0.8, 0.4)


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ("He walks.", 0),
        ("This is a walk.", 1),
        ("A WALK  away from the door.", 1),
        ("Not a walk but a fall.", 0),
        ("A boardwalk.", 0),
    ],
)
def test_reasoning_that_names_other_labels_alone_is_counted(body: str, counted: int) -> None:
    judge = make()
    judged(judge, f"{body}\nClassification: fall")
    assert judge.counts.num_other_named == counted


def test_the_longest_name_counts_where_names_lie_in_names() -> None:
    judge = make()
    walk = Sample(id="w", video="w", label="walk", split=Split.TRAIN)
    judged(judge, "To walk away is all he does.\nClassification: walk", sample=walk)
    assert judge.counts.num_other_named == 1


def test_figures_of_nothing_are_zero() -> None:
    figures = make().counts.figures()
    assert (figures["kept_frac"], figures["num_written"], figures["mean_words"]) == (0.0, 0, 0.0)
