import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.check.builders import LABELS
from wire.label_words import LabelWords
from wire.labels import Label, LabelSet

WORDS = LabelWords(LABELS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fall_001", {"fall"}),
        ("clip-Fall", {"fall"}),
        ("BrushHair07", {"brush hair"}),
        ("she will brush  hair, then fall", {"brush hair", "fall"}),
        ("waterfall abnormal hair brush", set()),
        ("", set()),
    ],
)
def test_labels_are_found_as_whole_words_in_any_spelling(text: str, named: set[str]):
    assert WORDS.named_in(text) == named


@given(st.text(), st.sampled_from(LABELS.names), st.text())
def test_a_label_among_any_other_text_is_found(before: str, name: str, after: str):
    assert name in WORDS.named_in(f"{before} .{name}. {after}")


def test_a_longer_label_hides_the_shorter_one_that_it_begins_with():
    words = LabelWords(LabelSet(labels=(Label(name="open"), Label(name="open door"))))
    assert words.named_in("open_door_3") == {"open door"}


def test_a_label_of_a_script_without_spaces_is_found():
    names = ("\u5f02\u5e38", "\u6b63\u5e38")
    words = LabelWords(LabelSet(labels=tuple(Label(name=name) for name in names)))
    assert words.named_in("\u89c6\u9891\u5f02\u5e38\u884c\u4e3a") == {names[0]}


def test_further_spellings_name_their_label_and_take_no_other_labels_name():
    words = LabelWords(LABELS, {"fall": ["tumble down", "ab"], "brush hair": ["fall"]})
    assert words.named_in("they Tumble-Down") == {"fall"}
    assert words.named_in("ab") == set()
    assert words.ignored == []
