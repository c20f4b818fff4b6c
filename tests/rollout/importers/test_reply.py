import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.importers.record import Reasoning
from rollout.importers.reply import (
    NO_CLOSING_LINE,
    NOT_A_TRACE,
    TWO_CONCLUSIONS,
    is_label_word,
    parse_rationale,
    parse_trace,
    speaks_of_hint,
)

BODY = "A cat sits on the wall.\n\n- nobody is near"


@pytest.mark.parametrize(
    "closing",
    [
        "Classification: normal",
        "classification: Normal.",
        "**Classification: Normal**",
        "**Classification:** normal",
        "### Final Classification: __Normal__",
        "**Classification:**\nClassification: Normal",
        "Classification: normal\n\nClassification: Normal\n",
    ],
)
def test_a_closing_line_names_the_answer_and_is_cut_off(closing: str) -> None:
    assert parse_rationale(f"{BODY}\n\n{closing}") == Reasoning(text=BODY, answer="normal")


@pytest.mark.parametrize(
    "closing",
    [
        "",
        "So this is normal.",
        "Classification:",
        "Classification: it could be either of the two",
        "Classification: Normal\nCall somebody.",
        "The classification: normal",
        "Classification: [normal/abnormal]",
        "Classification: normal, abnormal",
    ],
)
def test_an_odd_closing_line_is_not_guessed_at(closing: str) -> None:
    assert parse_rationale(f"{BODY}\n\n{closing}") == NO_CLOSING_LINE


@pytest.mark.parametrize(
    "text",
    [
        f"{BODY}\nClassification: **Normal**\n\nClassification: Abnormal",
        f"Classification: normal\n{BODY}\nClassification: Abnormal",
        f"{BODY}\nClassification: it seems rather normal to me\nClassification: Abnormal",
    ],
)
def test_a_rationale_that_concludes_twice_differently_is_refused(text: str) -> None:
    assert parse_rationale(text) == TWO_CONCLUSIONS


def test_a_closing_line_alone_is_no_reasoning() -> None:
    assert parse_rationale("Classification: normal") == NO_CLOSING_LINE


def test_another_word_than_a_label_is_returned_as_it_stands() -> None:
    found = parse_rationale(f"{BODY}\nClassification: not normal")
    assert found == Reasoning(text=BODY, answer="not normal")


@given(st.sampled_from(["open_door", "x-ray", "making tea", "Fall"]), st.sampled_from(["", "**"]))
def test_label_words_of_other_tasks_are_read_whole(word: str, mark: str) -> None:
    found = parse_rationale(f"{BODY}\n{mark}Classification: {word}{mark}")
    assert found == Reasoning(text=BODY, answer=word.casefold())


def test_a_trace_gives_its_reasoning_and_answer() -> None:
    found = parse_trace(f" <think>\n{BODY}\n</think>\n\n<answer> Normal </answer>\n")
    assert found == Reasoning(text=BODY, answer="Normal")


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>",
        "<answer>normal</answer>",
        "<think>a<answer>normal</answer>",
        "<think>a</think><answer>normal",
        "so: <think>a</think><answer>normal</answer>",
        "<think>a</think> thus <answer>normal</answer>",
        "<think>a</think><answer>normal</answer> done",
        "<think>a<think>b</think></think><answer>normal</answer>",
        "<think>a</think><answer>normal</answer><answer>normal</answer>",
        "<answer>normal</answer><think>a</think>",
        "<think> </think><answer>normal</answer>",
        "<think>a</think><answer> </answer>",
    ],
)
def test_a_trace_of_another_shape_is_refused(text: str) -> None:
    assert parse_trace(text) == NOT_A_TRACE


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_end|>\n<|endoftext|>", " </s>\n", "<eos>"])
def test_the_end_of_a_turn_that_a_server_left_is_no_part_of_a_trace(end: str) -> None:
    trace = f"<think>{BODY}</think><answer>normal</answer>"
    assert parse_trace(trace + end) == parse_trace(trace) == Reasoning(text=BODY, answer="normal")
    assert parse_trace(trace + end + " done") == NOT_A_TRACE


def test_a_trace_that_concludes_otherwise_than_it_answers_is_refused() -> None:
    inner = f"{BODY}\n\n**Classification:**\nClassification: Normal"
    assert parse_trace(f"<think>{inner}</think><answer>abnormal</answer>") == TWO_CONCLUSIONS


def test_an_agreeing_closing_line_inside_a_trace_is_cut_off() -> None:
    found = parse_trace(f"<think>{BODY}\nClassification: Normal</think><answer>normal</answer>")
    assert found == Reasoning(text=BODY, answer="normal")


@pytest.mark.parametrize("text", ["normal", " Vague Abnormal\n", "making a tea"])
def test_a_short_line_can_be_a_label(text: str) -> None:
    assert is_label_word(text)


@pytest.mark.parametrize("text", ["", "a\nb", "it is a normal clip", "<answer>x</answer>"])
def test_anything_longer_cannot(text: str) -> None:
    assert not is_label_word(text)


@pytest.mark.parametrize(
    "text", ["The ground-truth label of 'normal' is right", "as the sticker text says"]
)
def test_a_trace_that_speaks_of_what_it_was_given_is_found(text: str) -> None:
    assert speaks_of_hint(text)


def test_a_trace_about_the_clip_alone_is_not_suspected() -> None:
    assert not speaks_of_hint("The label on the parcel is white; the ground is wet.")


@pytest.mark.timeout(5)
@pytest.mark.parametrize("piece", ["* ", "Classification: ", "_", "<think>", "\n", "<|im_end|> "])
def test_long_hostile_text_is_parsed_at_once(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    assert isinstance(parse_rationale(text), str)
    assert isinstance(parse_trace(text), str)
