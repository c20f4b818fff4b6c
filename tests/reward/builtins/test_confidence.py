import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.builtins.confidence import BrierParams, brier, brier_reward, confidence_in
from wire.config import validate
from wire.errors import ConfigError


def stating(confidence: str, answer: str = "a") -> str:
    block = f"<confidence>{confidence}</confidence>"
    return f"<think>x {block}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("confidence", "answer", "value"),
    [
        ("1", "a", 1.0),
        ("0.8", "a", 1 - 0.2**2),
        (" 80% ", "a", 1 - 0.2**2),
        ("0.8", "b", 1 - 0.8**2),
        (".5", "b", 0.75),
        ("0", "b", 1.0),
        ("1.0", "", 0.0),  # no answer is a wrong answer, stated with certainty
    ],
)
def test_brier_of_a_stated_confidence(make_context, confidence, answer, value):
    got = brier(stating(confidence, answer), "a", make_context("a", "b"), tag="confidence")
    assert got == pytest.approx(value)


@pytest.mark.parametrize(
    "confidence",
    ["", "1.01", "-0.5", "101%", "nan", "inf", "high", "0.5 0.6", "1e-3", "\u0661", "9" * 10**6],
)
def test_a_confidence_that_is_none_scores_0_even_if_the_answer_is_right(make_context, confidence):
    context = make_context("a", "b")
    assert brier(stating(confidence), "a", context, tag="confidence") == 0.0
    assert brier("<answer>a</answer>", "a", context, tag="confidence") == 0.0


def test_the_first_confidence_counts():
    assert confidence_in(stating("0.3") + stating("0.9"), "confidence") == 0.3
    assert confidence_in("<sure>0.4</sure>", "sure") == 0.4


@settings(deadline=None)  # a busy machine
@given(belief=st.floats(0, 1), stated=st.floats(0, 1))
def test_the_honest_confidence_pays_best(belief, stated):
    def expected(confidence: float) -> float:
        right, wrong = brier_reward(confidence, True), brier_reward(confidence, False)
        return belief * right + (1 - belief) * wrong

    assert 0 <= expected(stated) <= expected(belief) + 1e-12


def test_a_tag_that_is_no_name_is_refused():
    with pytest.raises(ConfigError, match="tag"):
        validate(BrierParams, {"tag": "<confidence>"}, "recipe")
