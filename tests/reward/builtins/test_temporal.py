import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.builtins.temporal import TemporalContrastParams, temporal_bonus, temporal_contrast
from wire.config import validate
from wire.errors import ConfigError, DataError

RIGHT, WRONG = "<answer>a</answer>", "<answer>b</answer>"


def score(make_context, shuffled: object, text: str = RIGHT, mu: float = 0.8) -> float | None:
    context = make_context(
        "a", "b", texts=(RIGHT, WRONG, "", RIGHT), extra={"shuffled_accuracy": shuffled}
    )
    return temporal_contrast(text, "a", context, mu=mu, alpha=0.3)


@pytest.mark.parametrize(
    ("shuffled", "mu", "bonus"),
    [(0.0, 0.8, 0.3), (0.5, 0.8, 0.3), (0.625, 0.8, 0.3), (0.75, 0.8, 0.0), (0.75, 0.5, 0.3)],
)
def test_half_right_on_ordered_frames_against_the_share_on_shuffled(
    make_context, shuffled, mu, bonus
):
    assert score(make_context, shuffled, mu=mu) == bonus


@pytest.mark.parametrize("text", [WRONG, "", "a", "<answer>a", "\ud800"])
def test_a_wrong_answer_gets_no_bonus(make_context, text):
    assert score(make_context, 0.0, text) == 0.0


def test_without_a_shuffled_group_it_does_not_apply(make_context):
    context = make_context("a", "b", texts=(RIGHT,))
    assert temporal_contrast(RIGHT, "a", context, mu=0.8, alpha=0.3) is None
    assert score(make_context, None) is None


@pytest.mark.parametrize("shuffled", [1.5, -0.1, "half", True, float("nan")])
def test_a_share_that_is_none_is_the_manifest_s_fault(make_context, shuffled):
    with pytest.raises(DataError, match="share between 0 and 1"):
        score(make_context, shuffled)


@settings(deadline=None)  # a busy machine
@given(p=st.floats(0, 1), better=st.floats(0, 1), shuffled=st.floats(0, 1), mu=st.floats(0.1, 2))
def test_doing_better_on_ordered_frames_never_loses_the_bonus(p, better, shuffled, mu):
    low, high = sorted((p, better))
    assert temporal_bonus(low, shuffled, mu, 0.3) <= temporal_bonus(high, shuffled, mu, 0.3)


def test_a_negative_bonus_is_refused():
    with pytest.raises(ConfigError, match="greater than or equal to 0"):
        validate(TemporalContrastParams, {"alpha": -0.3}, "recipe")
