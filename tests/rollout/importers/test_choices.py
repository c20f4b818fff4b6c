"""Options of a row in every shape, and what an answer names among them."""

from typing import Any

import pytest

from rollout.importers.choices import (
    choose,
    is_key,
    names_keys,
    options_in_columns,
    options_in_text,
    question_without_options,
)
from rollout.importers.record import Numbered

FOUR = "<video>What happens?\nOptions:\nA. fall\nB. jump\nC. sit\nD. wave"


def texts(question: str) -> list[str]:
    return [option.text for option in options_in_text(question)]


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (FOUR, ["fall", "jump", "sit", "wave"]),
        (FOUR + "\nAnswer with the option's letter directly.", ["fall", "jump", "sit", "wave"]),
        ("What?\n(A) fall\n(B) jump", ["fall", "jump"]),
        ("What?\nA) fall\nB) jump", ["fall", "jump"]),
        ("What?\n a) fall\n b) jump", ["fall", "jump"]),
        ("What?\n**A.** fall\n**B.** jump", ["fall", "jump"]),
        ("What?\n- A: fall\n- B: jump", ["fall", "jump"]),
        ("What? (A) fall (B) jump. Please answer with a letter.", ["fall", "jump"]),
        ("What? A. fall, B. jump; C. wave.", ["fall", "jump", "wave"]),
        ("Pick one option:\n1. fall\n2. jump", ["fall", "jump"]),
        ("Which class?\n0) fall\n1) jump\n2) sit", ["fall", "jump", "sit"]),
        ("What?\nA. a man\n   falls\nB. a man jumps", ["a man falls", "a man jumps"]),
        ("A. x\nB. y\nAnswer: A\n\nA. fall\nB. jump\nC. sit", ["fall", "jump", "sit"]),
        ("What?\r\nA. fall\r\nB. jump\r\n", ["fall", "jump"]),
        ("What?\nA. try to write\nB. pick up a pen, then give it", ["try to write"]),
        ("1. Watch the clip.\n2. Say what happens.", []),
        ("A: it is a man. Which man?", []),
        ("B. fall\nC. jump", []),
        ("Which of these?\nA. A\nB. B", []),
        ("At 3.5 s, who falls?", []),
    ],
)
def test_options_stand_in_the_text_of_a_question(question: str, options: list[str]) -> None:
    assert texts(question)[: len(options)] == options
    assert bool(texts(question)) == bool(options)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"options": ["A. fall", "B. jump"]}, {"a": "fall", "b": "jump"}),
        ({"options": ["(A) fall", "(B) jump"]}, {"a": "fall", "b": "jump"}),
        ({"candidates": ["fall", "jump"]}, {"": "jump"}),
        ({"options": ["A man falls", "A man jumps"]}, {"": "A man jumps"}),
        ({"options": "['fall', 'jump']"}, {"": "jump"}),
        ({"options": '["fall", "jump"]'}, {"": "jump"}),
        ({"options": "A. fall\nB. jump"}, {"a": "fall", "b": "jump"}),
        ({"choices": {"A": "fall", "B": "jump", "C": None}}, {"a": "fall", "b": "jump"}),
        ({"choices": {"text": ["fall", "jump"], "label": ["A", "B"]}}, {"a": "fall", "b": "jump"}),
        ({"A": "fall", "B": "jump", "C": None}, {"a": "fall", "b": "jump"}),
        ({"option_a": "fall", "option_b": "jump"}, {"a": "fall", "b": "jump"}),
        ({"a0": "fall", "a1": "jump"}, {"0": "fall", "1": "jump"}),
        ({"option 1": "fall", "option 2": "jump"}, {"1": "fall", "2": "jump"}),
        ({"a": "0.5", "b": "7"}, {}),
        ({"0": "clip.mp4", "1": "fall"}, {}),
        ({"options": "--loop"}, {}),
        ({"options": ["A", "B"]}, {}),
        ({"A": "fall"}, {}),
    ],
)
def test_options_stand_in_columns(row: dict[str, Any], options: dict[str, str]) -> None:
    assert {each.key: each.text for each in options_in_columns(row)} == options


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        *[(text, "jump") for text in ("B", "b", "B.", "(B)", "[B]", "B)", "B:", "**B**")],
        *[
            (text, "jump")
            for text in ("B. jump", "(B) jump", "B jump", "B: Jump.", "jump", "Jump.")
        ],
        *[(text, "jump") for text in ("Option B", "The correct answer is (B).", "Answer: B")],
        *[(text, Numbered(2, ("fall", "jump", "sit", "wave"))) for text in ("2", 2, "option 2")],
        *[(text, None) for text in ("E", "B. sit", "BD", "A man", "fly", "A, C", "3.5", "-1")],
    ],
)
def test_an_answer_names_one_option(answer: str | int, chosen: object) -> None:
    assert choose(answer, options_in_text(FOUR)) == chosen


def test_an_answer_that_could_be_a_text_or_a_place_names_neither() -> None:
    options = options_in_columns({"options": ["2", "3", "4 or more"]})
    assert choose("3", options) == "3"
    assert choose(2, options) is None


def test_a_number_before_an_option_is_its_key() -> None:
    options = options_in_text("Pick one option:\n1. fall\n2. jump")
    assert choose(1, options) == choose("1", options) == choose("A", options) == "fall"
    assert choose(3, options) is None


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        *[(text, True) for text in ("B", "(c).", "option d", "B. jump", "A, C", "A and C")],
        *[(value, False) for value in ("No", "A man jumps", "ACE", "2", 2, None, "jump")],
    ],
)
def test_a_letter_is_told_from_a_word(answer: object, is_one: bool) -> None:
    assert is_key(answer) == is_one


def test_letters_side_by_side_are_several_options_where_there_are_options() -> None:
    options = options_in_text(FOUR)
    assert [names_keys(answer, options) for answer in ("BD", "DB", "TV", "7", "fly")] == [
        *(True, False, False, True, False)
    ]


def test_questions_are_compared_without_their_options() -> None:
    other = "<video>\nwhat happens?  options:\nA. sit\nB. run"
    assert question_without_options(FOUR) == question_without_options(other)


def test_a_long_text_of_marks_takes_no_long_time() -> None:
    assert options_in_text("A. x\n" * 50_000) == ()
    assert len(options_in_text("\n".join(f"{letter}. x" for letter in "ABCDEF" * 10_000))) == 6
