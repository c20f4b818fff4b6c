"""DeepIntuit's reward list (seeds.md 6) and the shapes that a policy may try."""

import time

import pytest

from reward.builtins.deepintuit import accuracy_reward, format_reward
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
GOOD = "<think>a cat walks by</think><answer>normal</answer>"


def total(text: str, label: str = "normal") -> float:
    return accuracy_reward(text, label, LABELS) + format_reward(text)


def test_right_label_in_right_shape_is_2() -> None:
    assert total(GOOD) == 2.0


def test_right_label_in_broken_shape_is_1() -> None:
    assert total("Sure! " + GOOD) == 1.0


def test_wrong_label_in_right_shape_is_1() -> None:
    assert total(GOOD, label="abnormal") == 1.0


def test_wrong_label_in_broken_shape_is_0() -> None:
    assert total("<answer>normal</answer>", label="abnormal") == 0.0


def test_case_and_outer_space_of_the_answer_are_ignored() -> None:
    assert total("<think>x</think>\n<answer>\n  NorMal </answer>") == 2.0


@pytest.mark.parametrize(
    "text", ["", "normal", "<think>x</think>", "<answer>normal", "<answer></answer>"]
)
def test_a_missing_answer_is_0(text: str) -> None:
    assert total(text) == 0.0


def test_the_first_answer_block_counts() -> None:
    text = "<think>x</think><answer>abnormal</answer><answer>normal</answer>"
    assert accuracy_reward(text, "normal", LABELS) == 0.0
    assert accuracy_reward(text, "abnormal", LABELS) == 1.0


def test_an_answer_that_only_contains_the_label_is_wrong() -> None:
    assert accuracy_reward("<answer>it is normal</answer>", "normal", LABELS) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "  \n" + GOOD,
        GOOD + "\n ",
        GOOD + "<|im_end|>",
        GOOD + " <|endoftext|>\n",
        "<think>x</think> \n\n <answer>normal</answer>",
        "<think>a < b, c > d, <br> and [1] are plain text</think><answer>normal</answer>",
        "<think>two\nlines</think><answer>normal</answer>",
    ],
)
def test_the_shapes_that_are_allowed(text: str) -> None:
    assert format_reward(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "<answer>normal</answer><think>x</think>",
        "<think>x</think>and so<answer>normal</answer>",
        GOOD + "that is all",
        GOOD + GOOD,
        GOOD + "<|im_end|><|im_end|>",
        "<think>x</think><answer>normal</answer><answer>normal</answer>",
        "<think>x<answer>normal</answer>",
        "<think>x</think><answer>normal",
        "x</think><answer>normal</answer>",
        "<think>x</answer>",
        # The case that DeepIntuit's own code lets through.
        "<think>x</think> hidden text </think><answer>normal</answer>",
    ],
)
def test_the_shapes_that_are_not(text: str) -> None:
    assert format_reward(text) == 0.0


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"),
        *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<unk>", "<s>", "</s>"),
        *("[INST]", "[/INST]", "<vis_start>", "<vis_end>", "<img_pad>", "<vid_pad>"),
        *("<think>", "<answer>", "</answer>", "<image>", "<video>"),
    ],
)
def test_a_control_token_or_nested_tag_in_either_block_is_0(token: str) -> None:
    assert format_reward(f"<think>x {token} y</think><answer>normal</answer>") == 0.0
    assert format_reward(f"<think>x</think><answer>normal {token}</answer>") == 0.0


@pytest.mark.parametrize(
    "unit", [" ", "<think>", "</think><answer>", "<|", "</think><answer></answer>"]
)
def test_no_completion_takes_long(unit: str) -> None:
    text = "<think>" + unit * (20_000 // len(unit)) + "x"  # about 2,048 long tokens
    begin = time.perf_counter()
    total(text)
    assert time.perf_counter() - begin < 1.0
