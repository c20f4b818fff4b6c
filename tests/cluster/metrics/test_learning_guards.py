import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from cluster.config.guards import GuardsConfig
from cluster.metrics.learning_guards import (
    LearningGuards,
    LearningState,
    learning_warnings,
    one_text_warnings,
)
from tests.groups import make_group, make_sample, make_trace
from wire.config import validate
from wire.errors import ConfigError, LearnsNothing
from wire.types import TraceGroup

SKIPPED = {"update_skipped": 1.0, "grad_norm": math.nan}
GOOD = {"update_skipped": 0.0, "grad_norm": 0.7}
ZERO = {"update_skipped": 0.0, "grad_norm": 0.0}


def guards(
    state: LearningState | None = None, *, updates: int = 1000, groups: int = 4, **limits: float
) -> LearningGuards:
    return LearningGuards(
        "grpo",
        GuardsConfig(**limits),  # type: ignore[arg-type]
        state or LearningState(),
        num_updates=updates,
        groups_per_step=groups,
    )


def update(watch: LearningGuards, *several: dict[str, float], is_last: bool = False) -> None:
    for figures in several:
        watch.observe_update(figures)
        watch.warn(figures)
        watch.refuse(figures, is_last=is_last)


def step_of(*texts: Sequence[str]) -> list[TraceGroup]:
    """A step whose groups wrote these texts."""
    trace = make_trace()
    return [
        make_group(
            *[replace(trace, completion=replace(trace.completion, text=text)) for text in group],
            sample=make_sample(video=f"{number}.mp4", label=f"label {number}"),
        )
        for number, group in enumerate(texts)
    ]


def test_the_first_skipped_update_is_warned_of_once_with_its_remedy(
    caplog: pytest.LogCaptureFixture,
):
    watch = guards()
    with caplog.at_level(logging.WARNING):
        update(watch, GOOD, SKIPPED, SKIPPED, GOOD, SKIPPED)
    (record,) = caplog.records
    assert "grpo: 1 of 2 updates were left out" in record.message
    assert "lower the learning rate" in record.message
    assert watch.warn({}) == {
        "learning/num_updates": 5,
        "learning/skipped": 3,
        "learning/skipped_in_a_row": 1,
    }


def test_a_training_without_fault_has_no_figures(caplog: pytest.LogCaptureFixture):
    watch = guards()
    update(watch, *[GOOD] * 50)
    watch.observe_step(step_of(["a", "b"], ["c", "d"]), has_signal=True)
    assert watch.warn({}) == {}
    assert not caplog.records
    assert list(learning_warnings({"grad_norm": 0.0, "update_skipped": 1.0})) == []


def test_as_many_skipped_in_a_row_as_the_limit_end_the_stage():
    watch = guards(max_skipped_in_a_row=3)
    update(watch, SKIPPED, SKIPPED, GOOD, SKIPPED, SKIPPED)
    with pytest.raises(
        LearnsNothing,
        match=r"^grpo learns nothing: 5 of 6 updates were left out.* last 3 .*"
        r"\(guards.max_skipped_in_a_row = 3\); lower the learning rate",
    ):
        update(watch, SKIPPED)
    update(guards(max_skipped_in_a_row=0, max_skipped_frac=1.0), *[SKIPPED] * 200)


def test_the_share_ends_the_stage_as_soon_as_it_is_certain():
    watch = guards(updates=6)
    update(watch, GOOD, SKIPPED, SKIPPED, SKIPPED)
    with pytest.raises(LearnsNothing, match=r"4 of 5 updates .*guards.max_skipped_frac = 0.5"):
        update(watch, SKIPPED)


def test_at_the_end_the_share_is_of_the_updates_that_there_were():
    watch = guards(updates=100)  # of steps without rows there are none
    update(watch, SKIPPED)
    with pytest.raises(LearnsNothing, match="2 of 2 updates"):
        update(watch, SKIPPED, is_last=True)
    exact = guards(updates=2)
    update(exact, GOOD)
    update(exact, SKIPPED, is_last=True)  # half of them: not beyond the share


def test_a_resumed_stage_counts_on():
    before = guards(max_skipped_in_a_row=10)
    update(before, GOOD, *[SKIPPED] * 9)
    adapter = TypeAdapter(LearningState)
    state = adapter.validate_json(adapter.dump_json(before.state))
    assert state == before.state
    with pytest.raises(LearnsNothing, match="10 of 11"):
        update(guards(state, max_skipped_in_a_row=10), SKIPPED)


def test_zero_gradients_count_where_there_was_something_to_learn(caplog: pytest.LogCaptureFixture):
    watch = guards(max_zero_gradients_in_a_row=2)
    watch.observe_update(ZERO, has_signal=False)
    assert watch.warn({}) == {}
    update(watch, ZERO, SKIPPED)
    assert "1 of 2 updates had a gradient of exactly 0; let something train" in caplog.text
    with pytest.raises(LearnsNothing, match=r"guards\.max_zero_gradients_in_a_row = 2"):
        update(watch, ZERO)


def test_a_constant_reward_is_warned_of_once_enough_groups_show_it(
    caplog: pytest.LogCaptureFixture,
):
    watch = guards(groups=4, max_steps_without_signal=6)
    figures = {"reward/min": 0.5, "reward/max": 0.5}
    step = step_of(["a", "b"], ["c", "d"])
    for number in range(1, 6):
        watch.observe_step(step, has_signal=False)
        assert bool(watch.warn(figures)) == (number >= 4), "16 groups, 4 a step"
        watch.refuse(figures, is_last=False)
    (record,) = caplog.records
    assert "in 4 of 4 steps no group had signal: every trace earned 0.5; " in record.message
    assert "reward lint" in record.message
    watch.observe_step(step, has_signal=False)
    with pytest.raises(LearnsNothing, match=r"in 6 of 6 steps .*max_steps_without_signal = 6"):
        watch.refuse(figures, is_last=False)


def test_a_limit_below_the_warning_still_says_the_counts():
    watch = guards(groups=1, max_steps_without_signal=1)
    watch.observe_step(step_of(["a", "b"]), has_signal=False)
    assert watch.warn({}) == {}
    with pytest.raises(LearnsNothing, match="in 1 of 1 steps"):
        watch.refuse({}, is_last=False)


def test_one_text_for_all_clips_is_warned_of_at_once(caplog: pytest.LogCaptureFixture):
    watch = guards(groups=64)
    watch.observe_step(step_of(["a", "a"], ["a", "a"]), has_signal=True)  # a judge's noise
    figures = watch.warn({})
    assert list(learning_warnings(figures)) == [
        "1 of 1 steps had one text for all traces, whatever the clip"
    ]
    assert "the policy has collapsed" in caplog.text


def test_a_measured_policy_that_writes_one_text_is_warned_of(caplog: pytest.LogCaptureFixture):
    assert one_text_warnings("base", step_of(["a"], ["a"], ["a"])) == [
        "all traces of the 3 measured clips are one text"
    ]
    assert "base: all traces" in caplog.text
    assert one_text_warnings("base", step_of(["a"], ["a"], ["b"])) == []
    of_one_label = [group for group in step_of(["a"]) for _ in range(3)]
    assert one_text_warnings("base", of_one_label) == [], "it may well be right"


def test_one_clip_or_one_text_per_clip_is_not_one_text_for_everything():
    watch = guards()
    watch.observe_step(step_of(["a", "a"]), has_signal=True)
    watch.observe_step(step_of(["a", "a"], ["b", "b"]), has_signal=True)
    watch.observe_step([], has_signal=True)
    assert watch.warn({}) == {}


@pytest.mark.parametrize(
    "values", [{"max_skipped_frac": 1.5}, {"max_skipped_in_a_row": -1}, {"max_skiped_frac": 0.5}]
)
def test_limits_have_bounds(values: dict[str, float]):
    with pytest.raises(ConfigError, match=r"recipe: .*max_ski"):
        validate(GuardsConfig, values, "recipe")
