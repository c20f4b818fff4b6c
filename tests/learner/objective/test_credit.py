from dataclasses import replace

import pytest

from learner.config import GrpoLossConfig
from learner.objective.credit import has_signal, with_advantages
from learner.shared_prefix.rows import (
    Row,
    StepCounts,
    grpo_rows,
    with_old_logprobs,
    with_ref_logprobs,
)
from tests.groups import make_trace
from tests.learner.builders import make_group
from wire.types import FinishReason

DR_GRPO = GrpoLossConfig(norm_adv_by_std_in_grpo=False)
CUT = FinishReason.LENGTH


def advantages(rows: list[Row]) -> list[list[float]]:
    return [[response.advantage for response in row.responses] for row in rows]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2 / 3**0.5, -1 / 3**0.5, -1 / 3**0.5]),
        ({"norm_adv_by_std_in_grpo": False}, [2.0, -1.0, -1.0]),
        ({"adv_estimator": "rloo"}, [3.0, -1.5, -1.5]),
    ],
)
def test_estimators_worked_by_hand_over_the_survivors(settings: dict, expected: list[float]):
    group = make_group(make_trace(3.0), make_trace(None), make_trace(0.0), make_trace(0.0))
    found = advantages(with_advantages(grpo_rows([group]), GrpoLossConfig(**settings)))
    assert found == [pytest.approx(expected, abs=1e-5)]


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
@pytest.mark.parametrize("rewards", [[5.0], [1.0, 1.0], [2.0, None], [0.3 + 0.6, 0.9]])
def test_groups_of_one_and_of_equal_rewards_have_no_signal(estimator: str, rewards: list):
    config = GrpoLossConfig(adv_estimator=estimator, norm_adv_by_std_in_grpo=False)
    group = make_group(*(make_trace(reward) for reward in rewards))
    (found,) = advantages(with_advantages(grpo_rows([group]), config))
    assert found == pytest.approx([0.0] * len(found), abs=1e-15)


def test_a_truncated_trace_leaves_its_reward_in_the_baseline_and_does_not_train():
    group = make_group(make_trace(2.0), make_trace(0.0, (1, 2, 3), CUT), make_trace(1.0))
    rows = grpo_rows([group])
    masked = with_advantages(rows, DR_GRPO.model_copy(update={"mask_truncated": True}))
    assert advantages(masked) == [[1.0, 0.0]]
    assert advantages(with_advantages(rows, DR_GRPO)) == [[1.0, -1.0, 0.0]]
    assert StepCounts.of(masked) == StepCounts(4, 2)


def test_a_group_of_truncated_traces_makes_no_row():
    group = make_group(make_trace(2.0, finish=CUT), make_trace(0.0, finish=CUT))
    config = GrpoLossConfig(mask_truncated=True)
    assert with_advantages(grpo_rows([group]), config) == []
    assert not has_signal(group, config)
    assert has_signal(group, GrpoLossConfig())


def test_kl_is_taken_off_the_reward_before_the_baseline():
    rows = grpo_rows([make_group(make_trace(1.0, (5, 6)), make_trace(1.0, (7,)))])
    rows = with_old_logprobs(rows, [[[-1.0, -1.0], [-2.0]]])
    rows = with_ref_logprobs(rows, [[[-1.5, -1.25], [-2.0]]])
    config = DR_GRPO.model_copy(update={"kl_coef": 2.0})
    # k1: 0.75 over the two tokens of the first, 0 of the second; rewards 1 - 1.5 and 1
    assert advantages(with_advantages(rows, config)) == [pytest.approx([-0.75, 0.75])]
    squared = config.model_copy(update={"kl_penalty": "k2"})
    assert advantages(with_advantages(rows, squared)) == [pytest.approx([-0.15625, 0.15625])]


def test_kl_in_the_reward_is_of_the_engines_logprobs_where_those_are_the_old_ones():
    rows = grpo_rows([make_group(make_trace(1.0, (5,)), make_trace(1.0, (7,)))])
    rows = with_ref_logprobs(rows, [[[-3.0], [-1.0]]])  # the engine's are -1
    config = GrpoLossConfig(
        kl_coef=1.0, old_logprobs="engine", rollout_is="none", norm_adv_by_std_in_grpo=False
    )
    assert advantages(with_advantages(rows, config)) == [pytest.approx([-1.0, 1.0])]


def test_signal_is_a_difference_of_rewards_among_scored_traces():
    config = GrpoLossConfig()
    assert has_signal(make_group(make_trace(1.0), make_trace(0.0)), config)
    assert not has_signal(make_group(make_trace(1.0), make_trace(1.0), make_trace(None)), config)
    assert not has_signal(make_group(), config)


def test_rows_keep_what_they_carry():
    rows = grpo_rows([make_group(make_trace(1.0), make_trace(0.0))])
    (row,) = with_advantages(rows, GrpoLossConfig())
    kept = tuple(replace(response, advantage=0.0) for response in row.responses)
    assert replace(row, responses=kept) == rows[0]
