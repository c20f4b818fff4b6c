from typing import Any

import pytest

from rollout.prompt import Prompts
from rollout.prompt_columns import (
    TellingColumn,
    check_columns,
    column_faults,
    telling_columns,
)
from rollout.prompts_config import PromptsConfig
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

NAMES = ("fall", "run", "walk")
LABELS = LabelSet(labels=tuple(Label(name=name) for name in NAMES))


def make_samples(column: str, values: list[Any], labels: str = "") -> list[Sample]:
    """A row per value; ``labels``: the first letter of each row's label, else all in turn."""
    named = [next(n for n in NAMES if n[0] == letter) for letter in labels]
    return [
        Sample(
            id=f"s{index}",
            video="a.mp4",
            label=named[index] if named else NAMES[index % 3],
            split=Split.TRAIN,
            extra={} if value is None else {column: value},
        )
        for index, value in enumerate(values)
    ]


def showing(*columns: str, name: str = "trace") -> Prompts:
    text = " ".join(f"{{{column}}}" for column in columns)
    return Prompts(LABELS, PromptsConfig(**{name: text}))


def test_default_prompts_show_no_column():
    assert list(column_faults(Prompts(LABELS), make_samples("title", [None, "a"]))) == []


def test_a_column_that_the_manifest_has_not_is_named_with_the_nearest():
    samples = make_samples("title", ["a", "b", "c"])
    with pytest.raises(DataError) as refused:
        check_columns(showing("titel"), samples)
    assert "prompts.trace: the manifest has no column 'titel'" in str(refused.value)
    assert "did you mean 'title'?" in str(refused.value)


def test_rows_without_a_value_are_named():
    samples = make_samples("title", ["a", None, "", float("nan"), *[None] * 5])
    (fault,) = column_faults(showing("title", name="verdict"), samples)
    assert "7 of 9 rows have no value in column 'title', which prompts.verdict shows" in fault
    assert "s1, s3, s4, s5, s6 and 2 more" in fault


def test_the_id_is_a_column_that_every_row_has():
    assert list(column_faults(showing("id"), make_samples("title", ["a"] * 3))) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["Fall", " run", "walk"] * 2, "holds the label itself in 6 of 6 rows"),
        ([*["fall", "run", "walk"] * 6, "?", ""], "holds the label itself in 18 of 19 rows"),
        ([0, 1, 2] * 2, "is a code of the label (each of its 3 values stands for one label)"),
        (["x", "y", "z"] * 4, "is a code of the label"),
    ],
)
def test_a_column_that_gives_the_label_away_is_refused_by_name(values: list[Any], reason: str):
    (fault,) = column_faults(showing("hint"), make_samples("hint", values))
    assert fault.startswith(f"column 'hint' {reason}")
    assert fault.endswith("take {hint} out of the prompt")


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "c"],  # three rows, three values: nothing to judge by
        ["same"] * 9,
        [str(n) for n in range(30)],
        ["a", "a", "b"] * 5,  # tells one label of three
        ["fall", "fall", "fall"] * 5,
        ["a", "b", "c", "b", "c", "a"] * 3,
    ],
)
def test_a_column_of_other_facts_is_shown(values: list[Any]):
    assert list(column_faults(showing("fact"), make_samples("fact", values))) == []


def test_a_column_that_nearly_always_tells_the_label_is_counted():
    cameras = make_samples("camera", list("abcdef") * 10, "frwfrw" * 10)  # two cameras a label
    assert telling_columns(showing("camera"), cameras) == [
        TellingColumn(name="camera", told=60, of=60)
    ]
    assert list(column_faults(showing("camera"), cameras)) == []


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([str(n) for n in range(60)], "frw" * 20),  # each its own
        (list("ab") * 30, "frw" * 20),  # by chance
        (list("ab") * 30, "f" * 60),  # one label: nothing to tell
        (["a", "a"] * 2, "ffrr"),  # too few
        (list("abc") * 20, "fff" * 10 + "rwr" * 10),
    ],
)
def test_a_column_by_chance_is_not_called_telling(values: list[Any], labels: str):
    assert telling_columns(showing("x"), make_samples("x", values, labels)) == []
