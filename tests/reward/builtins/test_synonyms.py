import pytest

from reward.builtins.synonyms import SynonymsParams, synonyms
from wire.config import validate
from wire.errors import ConfigError

SPELLINGS = {"fall": ("falls", "falling  down"), "walk": ("\u6b69\u304f",)}


def score(make_context, answer: str, label: str) -> float:
    text = f"<think>x</think><answer>{answer}</answer>"
    return synonyms(text, label, make_context("fall", "walk", "sit"), spellings=SPELLINGS)


@pytest.mark.parametrize(
    ("answer", "label", "value"),
    [
        ("fall", "fall", 1.0),
        (" FALLS\n", "fall", 1.0),
        ("Falling\n down", "Fall", 1.0),
        ("falls", "walk", 0.0),
        ("\u6b69\u304f", "walk", 1.0),
        ("sit", "sit", 1.0),
        ("it falls", "fall", 0.0),
        ("", "fall", 0.0),
    ],
)
def test_a_spelling_counts_as_its_label(make_context, answer, label, value):
    assert score(make_context, answer, label) == value


def test_without_an_answer_block_nothing_is_right(make_context):
    context = make_context("fall", "walk")
    assert synonyms("<think>falls", "fall", context, spellings=SPELLINGS) == 0.0


@pytest.mark.parametrize(
    ("spellings", "words"),
    [
        ({"fall": ["down"], "walk": ["Down "]}, "of both 'fall' and 'walk'"),
        ({"fall": [" "]}, "empty spelling"),
        ({}, "at least 1"),
    ],
)
def test_spellings_that_cannot_be_meant_are_refused(spellings, words):
    with pytest.raises(ConfigError, match=words):
        validate(SynonymsParams, {"spellings": spellings}, "recipe")


@pytest.mark.parametrize(
    ("spellings", "words"),
    [
        ({"fal": ("down",)}, "did you mean 'fall'"),
        ({"fall": ("Walk",)}, "which is a label"),
    ],
)
def test_spellings_are_checked_against_the_labels(make_context, spellings, words):
    with pytest.raises(ConfigError, match=words):
        SynonymsParams(spellings=spellings).refuse_unfit(make_context("fall", "walk").labels, None)


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'spellings'"):
        validate(SynonymsParams, {"speling": {}}, "recipe")
