"""Warnings about labels, traces and side texts of an import."""

import pytest

from rollout.importers.warnings import warnings_of


def warned(*labels: str, **fields: str | None) -> list[str]:
    rows = [
        {"label": label, "split": "train", "trace": None, "text": None, **fields}
        for label in labels
    ]
    return warnings_of(rows, sorted(set(labels)))


def test_plain_labels_are_not_warned_of() -> None:
    assert warned("drink", "drink beer", "cleaning, mopping", "C", "a", "12", "3rd") == []


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("0", "1"), "the labels are numbers"),
        (("A", "B"), "the labels are letters"),
        (("clips/a.mp4", "clips/b.mp4"), "label 'clips/a.mp4' is the name of a video"),
        (
            ("jump", "a man jumps over a bar and falls into the sand behind it"),
            "look like sentences",
        ),
        (("True", "False"), "the labels are true and false"),
        (("none", "mild"), "label 'none' is what tables write in an empty cell"),
        (("NA", "None", "mild"), "label 'NA' or 'None' is what tables write in an empty cell"),
        (("001", "1", "2"), "look like one, written differently: '001' and '1'"),
        (("ride_bike", "ride bike", "run"), "'ride bike' and 'ride_bike'"),
        (("run", "jump", "jump|run"), "labels that name several others: 'jump|run'"),
        (("run", "jump", "jump, run"), "labels that name several others"),
        (("run", "jump", "run and jump"), "labels that name several others"),
    ],
)
def test_labels_that_are_not_what_they_seem_are_warned_of(
    labels: tuple[str, ...], words: str
) -> None:
    (warning, *_) = [each for each in warned(*labels) if words in each]
    assert warning


@pytest.mark.parametrize(
    ("trace", "is_hinted"),
    [
        ("So it must be option B, the man jumps.", True),
        ("Thus the answer is (C).", True),
        ("Choice A fits.", True),
        ("The option a viewer has is to look.", False),
        ("The answer is A man who jumps.", False),
        ("The answer is jump.", False),
    ],
)
def test_a_trace_that_speaks_of_letters_is_hinted(trace: str, is_hinted: bool) -> None:
    warnings = warned("run", "jump", trace=trace)
    assert any("--drop-hinted-traces" in each for each in warnings) == is_hinted
