import pytest

from reward.builtins.agreement import AgreementParams, agreement
from wire.config import validate
from wire.errors import ConfigError

NAMES = ("fall", "fall down", "normal", "abnormal", "\u8dcc\u5012", "stra\u00dfe")


def score(make_context, reasoning: str, answer: str, phrase: str = "{label}") -> float:
    text = f"<think>{reasoning}</think><answer>{answer}</answer>"
    return agreement(text, "fall", make_context(*NAMES), phrase=phrase)


@pytest.mark.parametrize(
    ("reasoning", "answer", "value"),
    [
        ("It could be a fall, but it is Normal.", "normal", 1.0),
        ("It could be normal, but it is a fall.", "normal", 0.0),
        ("clearly abnormal", "normal", 0.0),  # not the word inside a word
        ("clearly abnormal", "Abnormal ", 1.0),
        ("he will fall\n  down", "fall down", 1.0),  # the longer label
        ("he will fall down", "fall", 0.0),
        ("falls normally", "fall", 0.0),  # neither is a label
        ("\u8fd9\u662f\u8dcc\u5012\u7684", "\u8dcc\u5012", 1.0),
        ("this is \u8dcc\u5012", "fall", 0.0),
        ("die STRASSE", "stra\u00dfe", 1.0),
        ("", "fall", 0.0),
        ("a fall", "flying", 0.0),
    ],
)
def test_the_last_label_of_the_reasoning_must_be_the_answer(make_context, reasoning, answer, value):
    assert score(make_context, reasoning, answer) == value


def test_it_asks_for_agreement_not_for_the_truth(make_context):
    text = "<think>normal</think><answer>normal</answer>"
    assert agreement(text, "abnormal", make_context(*NAMES), phrase="{label}") == 1.0


def test_a_phrase_says_where_the_label_stands(make_context):
    reasoning = "So the  Label is: fall. The man looks normal otherwise."
    assert score(make_context, reasoning, "fall", "the label is: {label}") == 1.0
    assert score(make_context, reasoning, "normal", "the label is: {label}") == 0.0
    assert score(make_context, reasoning, "fall", "verdict {label} (sure)") == 0.0


@pytest.mark.parametrize("text", ["", "fall", "<think>fall", "<answer>fall</answer>", "\ud800"])
def test_without_both_blocks_nothing_agrees(make_context, text):
    assert agreement(text, "fall", make_context(*NAMES), phrase="{label}") == 0.0


@pytest.mark.parametrize("phrase", ["the label", "{label} {label}", "{Label}", ""])
def test_a_phrase_without_its_label_is_refused(phrase):
    with pytest.raises(ConfigError, match=r"expected \{label\} once"):
        validate(AgreementParams, {"phrase": phrase}, "recipe")
