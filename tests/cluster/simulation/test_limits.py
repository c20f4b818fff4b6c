"""Limits of a simulated run: what would help, and what would not."""

from cluster.simulation.run import what_would_help
from cluster.simulation.table import limit_in_words
from tests.cluster.simulation.scenarios import scenario, timed


def gains(**timings: float) -> dict[str, float]:
    changes = what_would_help(scenario(timings=timed(**timings), grpo={"max_staleness": 1}))
    return {change.part: change.gain for change in changes}


def test_where_updates_take_the_time_a_faster_learner_helps_and_more_workers_do_not():
    helps = gains(learner_s_per_step=60.0)
    assert helps["the learner"] > 0.9
    assert abs(helps["the number of workers"]) < 0.01
    assert abs(helps["the engines"]) < 0.01


def test_where_generation_takes_the_time_workers_and_engines_help():
    helps = gains(learner_s_per_step=0.1, response_length=1000)
    assert helps["the engines"] > 0.8
    assert helps["the number of workers"] > 0.8
    assert abs(helps["the learner"]) < 0.02


def test_only_parts_that_take_time_are_tried():
    assert "rewards" not in gains()
    assert "rewards" in gains(reward_s=1.0)


def test_the_limit_is_the_change_that_gains_most():
    changes = what_would_help(scenario(timings=timed(learner_s_per_step=60.0)))
    best = max(changes, key=lambda change: change.gain)
    assert limit_in_words(changes).startswith(best.part)
    even = [change for change in changes if change.gain < 0.01]
    assert limit_in_words(even).startswith("nothing alone")
