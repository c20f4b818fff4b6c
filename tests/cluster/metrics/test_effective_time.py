from typing import Any

import pytest

from cluster.metrics.effective_time import EffectiveTime


def row(step: int, time: float, seconds: float, stage: str = "grpo", **more: Any) -> dict[str, Any]:
    of = {"stage": stage, "step": step, "attempt": 0, "time": time, "timing_s/step": seconds}
    return of | more


def test_a_training_that_nothing_disturbs_has_a_ratio_of_one():
    spent = EffectiveTime.resumed([], "grpo", 0, 100.0)
    assert spent.ratio(10.0, 0.0, 110.0) == 1.0
    assert spent.ratio(10.0, 0.0, 120.0) == 1.0


def test_a_heal_is_lost():
    spent = EffectiveTime.resumed([], "grpo", 0, 100.0)
    assert spent.ratio(10.0, 4.0, 110.0) == pytest.approx(0.6)


def test_steps_that_are_trained_again_and_the_time_between_attempts_are_lost():
    rows = [
        row(1, 110.0, 10.0),
        row(2, 120.0, 10.0),
        row(3, 130.0, 10.0),  # trained again, and lost
        row(3, 135.0, 5.0, "eval"),
    ]
    spent = EffectiveTime.resumed(rows, "grpo", 2, 150.0)
    assert spent.ratio(10.0, 0.0, 160.0) == pytest.approx(30 / 60)


def test_a_second_resume_counts_what_the_first_trained_again_once():
    rows = [row(1, 110.0, 10.0), row(2, 120.0, 10.0), row(2, 140.0, 10.0, **{"fleet/lost_s": 4.0})]
    spent = EffectiveTime.resumed(rows, "grpo", 2, 140.0)
    assert (spent.began, spent.effective_s) == (100.0, 16.0)
