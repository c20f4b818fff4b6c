import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wire.labels import Label, LabelSet, plain, reasoning_in


def make_labels(*names: str) -> LabelSet:
    return LabelSet(labels=tuple(Label(name=name) for name in names))


def test_names_are_sorted_whatever_the_order_of_writing() -> None:
    assert make_labels("normal", "abnormal").names == ("abnormal", "normal")


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("Fall", "fall"),
        ("stra\u00dfe", "STRASSE"),
        ("drink beer", "Drink  beer"),
        ("drink beer", "drink\u00a0beer"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_labels_that_differ_in_case_space_or_encoding_only_are_refused_by_name(
    names: tuple[str, ...],
) -> None:
    with pytest.raises(ValidationError, match="must differ, ignoring case") as refused:
        make_labels(*names, "other")
    assert ascii(list(names)) in str(refused.value)
    assert "other" not in str(refused.value).partition("; rename")[0].partition("got")[2]


@pytest.mark.parametrize("text", ["caf\u00e9", "cafe\u0301", " CAFE\u0301 "])
@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301"])
def test_accents_are_found_however_they_are_encoded(name: str, text: str) -> None:
    assert make_labels(name, "cafes").find(text) == name


@pytest.mark.parametrize("names", [("drink", "drink beer"), ("1", "10"), ("kick", "kick_ball")])
def test_a_label_that_begins_another_is_never_taken_for_it(names: tuple[str, ...]) -> None:
    labels = make_labels(*names)
    for name in names:
        for spelled in (name, f" {name.upper()}\n"):
            assert labels.answer_in(f"<think>x</think><answer>{spelled}</answer>") == name
    assert labels.answer_in(f"<answer>{names[0]} and</answer>") is None
    assert labels.answer_in(f"<answer>{names[0]}, {names[1]}</answer>") is None


def test_a_label_set_needs_two_labels() -> None:
    with pytest.raises(ValidationError, match="at least 2"):
        make_labels("only")


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "<a>", "a</answer>"])
def test_a_name_that_could_break_the_answer_block_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Label(name=name)


@pytest.mark.parametrize("text", ["fall", " Fall\n", "FALL"])
def test_a_label_is_found_ignoring_case_and_outer_space(text: str) -> None:
    assert make_labels("Fall", "walk").find(text) == "Fall"


@pytest.mark.parametrize("text", ["", "falls", "fall walk", "the fall"])
def test_a_text_that_spells_no_label_finds_none(text: str) -> None:
    assert make_labels("fall", "walk").find(text) is None


@pytest.mark.parametrize(
    ("completion", "label"),
    [
        ("<think>x</think><answer>fall</answer>", "fall"),
        ("<think>x</think><answer>\n Fall \n</answer>", "fall"),
        ("<answer>walk</answer><answer>fall</answer>", "walk"),
        ("<answer>neither</answer><answer>fall</answer>", None),
        ("<answer>fall", None),
        ("fall", None),
        ("", None),
    ],
)
def test_the_answer_is_the_label_in_the_first_answer_block(
    completion: str, label: str | None
) -> None:
    assert make_labels("fall", "walk").answer_in(completion) == label


@pytest.mark.parametrize(
    ("completion", "reasoning"),
    [
        ("<think> a\nb </think><answer>c</answer>", "a\nb"),
        ("<think></think>", ""),
        ("<think>cut off", None),
        ("no block", None),
    ],
)
def test_the_reasoning_is_the_first_think_block(completion: str, reasoning: str | None) -> None:
    assert reasoning_in(completion) == reasoning


names = st.text(st.characters(exclude_characters="<>\n", codec="utf-8"), min_size=1, max_size=8)


@given(st.lists(names.map(str.strip).filter(bool), min_size=2, max_size=5, unique_by=plain))
def test_every_label_is_found_in_its_own_answer_block(found: list[str]) -> None:
    labels = make_labels(*found)
    assert all(labels.answer_in(f"<answer>{name}</answer>") == name for name in found)


def test_a_label_set_survives_pickle() -> None:
    labels = make_labels("fall", "walk")
    assert pickle.loads(pickle.dumps(labels)) == labels


pieces = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "fall", " ", "\n", "<"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_blocks_are_those_of_the_obvious_pattern(text: str) -> None:
    answer = re.search("<answer>(.*?)</answer>", text, re.DOTALL)
    thought = re.search("<think>(.*?)</think>", text, re.DOTALL)
    labels = make_labels("fall", "walk")
    assert labels.answer_in(text) == (labels.find(answer[1]) if answer else None)
    assert reasoning_in(text) == (thought[1].strip() if thought else None)


@pytest.mark.timeout(5)  # the pattern above takes half a minute
@pytest.mark.parametrize("piece", ["</think><answer>", "<think>", "<answer>", "</answer><think>"])
def test_long_hostile_text_is_parsed_at_once(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    assert make_labels("fall", "walk").answer_in(text) is None
    assert reasoning_in(text) is None
