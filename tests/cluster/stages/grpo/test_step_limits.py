"""How many groups a step may lack, which traces are too old for it, and what it replaces."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.config.fleet import RolloutFailureConfig
from cluster.loop import StepGroups
from cluster.stages.grpo.step_limits import StepLimits, replacing_of
from tests.cluster.session_fakes import make_config
from tests.groups import make_completion, make_group, make_trace
from wire.errors import TooManyFailures
from wire.types import (
    Failure,
    FailureKind,
    PolicyVersion,
    Score,
    Trace,
    TraceGroup,
    VersionChange,
)

GOOD = make_group(make_trace())


def failed(kind: FailureKind = FailureKind.GENERATION) -> TraceGroup:
    return make_group(failures=(Failure(kind=kind, culprit="rollout-1", reason="it died"),))


def limits(max_failure_frac: float = 0.2, **failure: Any) -> StepLimits:
    return StepLimits(
        max_staleness=1,
        attempt=3,
        groups_per_step=4,
        max_failure_frac=max_failure_frac,
        failure=RolloutFailureConfig(**failure),
    )


# --- groups that a step lacks


def test_a_step_needs_its_share_of_groups_and_the_error_names_both_numbers():
    three = StepGroups(trained=[GOOD, GOOD, GOOD, failed()])
    limits(min_step_batch_fraction=0.75).refuse(three)
    with pytest.raises(
        TooManyFailures,
        match=r"1 groups of a step of 4 could not be written, and it needs 4 "
        r"\(rollout_failure\.min_step_batch_fraction=1\); the first: generation of rollout-1",
    ):
        limits(min_step_batch_fraction=1.0).refuse(three)
    two = StepGroups(trained=[GOOD, GOOD, failed(), failed()])
    with pytest.raises(TooManyFailures, match="needs 3"):
        limits(min_step_batch_fraction=0.75).refuse(two)


def test_without_a_share_of_its_own_the_limit_is_that_of_failed_scores():
    step = StepGroups(trained=[GOOD, GOOD, GOOD, failed()])
    limits(max_failure_frac=0.25).refuse(step)
    with pytest.raises(TooManyFailures, match=r"reward\.max_failure_frac=0\.2"):
        limits(max_failure_frac=0.2).refuse(step)


def test_what_was_replaced_is_not_lacking_and_what_was_not_is():
    limits(0.0).refuse(StepGroups(trained=[GOOD] * 4, replaced=[failed()] * 4))
    with pytest.raises(TooManyFailures):
        limits(0.0).refuse(StepGroups(trained=[GOOD] * 3, replaced=[failed()] * 5))


def test_what_the_data_fails_is_not_the_fleet_s_budget():
    bad = [failed(FailureKind.DECODE), failed(FailureKind.PROMPT)]
    limits(0.0).refuse(StepGroups(trained=[GOOD, GOOD, *bad]))
    assert [group.is_dropped for group in (GOOD, failed(), *bad)] == [False, True, False, False]


# --- staleness


def trace(step: int, *later: int, attempt: int = 3) -> Trace:
    """A trace of a token per version."""
    completion = replace(
        make_completion(
            "x", num_tokens=1 + len(later), version=PolicyVersion(attempt=attempt, step=step)
        ),
        version_changes=tuple(
            VersionChange(at, PolicyVersion(attempt=attempt, step=one))
            for at, one in enumerate(later, start=1)
        ),
    )
    return Trace(completion=completion, outcome=Score(total=1.0, parts={}))


def test_a_trace_too_old_is_left_out_and_its_siblings_are_trained():
    group = make_group(trace(7), trace(8), trace(6), group_id="a")
    (kept,), num_stale = limits().fresh([group], trained_from=8)
    assert kept.traces == (trace(7), trace(8))
    assert num_stale == 1


def test_the_oldest_token_counts():
    mixed = make_group(trace(6, 8), trace(7, 8))
    (kept,), num_stale = limits().fresh([mixed], trained_from=8)
    assert (kept.traces, num_stale) == ((trace(7, 8),), 1)


def test_a_group_of_old_traces_alone_is_left_out_and_one_that_failed_stays_as_it_is():
    assert limits().fresh([make_group(trace(5)), failed()], trained_from=8) == ([failed()], 1)


def test_traces_of_earlier_attempts_have_been_chosen_when_the_run_was_resumed():
    group = make_group(trace(1, attempt=2))
    assert limits().fresh([group], trained_from=8) == ([group], 0)


# --- what is replaced


def test_dropped_groups_are_replaced_where_the_recipe_says_so():
    grpo = make_config().grpo
    assert replacing_of(grpo, RolloutFailureConfig()) is None
    replacing = replacing_of(grpo, RolloutFailureConfig(on_dropped="replace"))
    assert replacing is not None
    assert replacing.max_groups == 2 * grpo.groups_per_step
    assert [replacing.has_signal(group) for group in (GOOD, failed())] == [True, False]
