import pytest

from reward.stats import refuse_too_many_failures, summarise
from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from wire.errors import TooManyFailures
from wire.types import Failure, FailureKind, Score, Trace, TraceGroup

BROKEN = Failure(kind=FailureKind.REWARD, culprit="judge", reason="KeyError('rubric')")


def make_group(label: str, *outcomes: Score | Failure) -> TraceGroup:
    answer = make_completion("x")
    traces = [Trace(completion=answer, outcome=outcome) for outcome in outcomes]
    return group_of(*traces, sample=make_sample(label))


def score(accuracy: float, shape: float) -> Score:
    return Score(total=accuracy + shape, parts={"accuracy": accuracy, "format": shape})


def test_a_step_worked_by_hand() -> None:
    groups = [
        make_group("normal", score(1, 1), score(0, 1)),
        make_group("abnormal", score(0, 1), score(0, 1), BROKEN),
        make_group("normal"),
    ]
    assert summarise(groups) == pytest.approx(
        {
            "reward/mean": 1.25,
            "reward/std": 0.75**0.5 / 2,
            "reward/min": 1.0,
            "reward/max": 2.0,
            "reward/accuracy/mean": 0.25,
            "reward/accuracy/std": 0.75**0.5 / 2,
            "reward/format/mean": 1.0,
            "reward/format/std": 0.0,
            "reward/frac_zero_std": 0.5,
            "reward/failed_frac": 0.2,
            "reward/judge/failed_frac": 0.2,
            "label/normal/accuracy": 0.5,
            "label/normal/reward": 1.5,
            "label/normal/reward/format": 1.0,
            "label/abnormal/accuracy": 0.0,
            "label/abnormal/reward": 1.0,
            "label/abnormal/reward/format": 1.0,
        }
    )


def test_figures_without_data_are_left_out() -> None:
    assert summarise([]) == {}
    assert summarise([make_group("normal")]) == {}
    assert summarise([make_group("normal", BROKEN)]) == {
        "reward/failed_frac": 1.0,
        "reward/judge/failed_frac": 1.0,
    }


def test_a_reward_without_accuracy_has_no_accuracy_per_label() -> None:
    figures = summarise([make_group("normal", Score(total=1.0, parts={"brevity": 1.0}))])
    assert not any(name.endswith("/accuracy") for name in figures)
    assert figures["label/normal/reward"] == 1.0


def test_failures_up_to_the_share_pass() -> None:
    refuse_too_many_failures([make_group("normal", BROKEN, *[score(1, 1)] * 4)], 0.2)
    refuse_too_many_failures([make_group("normal")], 0.0)


def test_more_failures_end_the_run_and_name_the_culprit() -> None:
    groups = [make_group("normal", BROKEN, BROKEN, score(1, 1))]
    with pytest.raises(TooManyFailures, match=r"2 of 3 .*judge \(2x\): KeyError"):
        refuse_too_many_failures(groups, 0.2)


def test_a_part_is_averaged_over_the_traces_that_it_applies_to() -> None:
    groups = [
        make_group(
            "normal",
            Score(total=3.0, parts={"judge": 3.0, "judge/words": 8.0}),
            Score(total=0.0, parts={"format": 0.0}),
            Failure(kind=FailureKind.NOT_APPLICABLE, culprit="judge", reason="none"),
        )
    ]
    figures = summarise(groups)
    assert (figures["reward/judge/mean"], figures["reward/judge/std"]) == (3.0, 0.0)
    assert figures["reward/judge/words/mean"] == 8.0
    assert figures["reward/failed_frac"] == 0.0
    assert figures["reward/not_applicable_frac"] == pytest.approx(1 / 3)
    refuse_too_many_failures(groups, 0.0)


def test_the_first_traceback_is_shown_with_its_sample() -> None:
    broken = Failure(
        kind=FailureKind.REWARD,
        culprit="judge",
        reason="KeyError",
        traceback="File mine.py, line 3",
    )
    with pytest.raises(TooManyFailures, match=r"judge on sample s:\nFile mine.py, line 3"):
        refuse_too_many_failures([make_group("normal", BROKEN, broken)], 0.2)
