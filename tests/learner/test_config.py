import math

import pytest
from pydantic import ValidationError

from learner.config import GrpoLossConfig, LearnerConfig, OptimConfig, ParityConfig


def rates(**changed) -> list[float]:
    config = OptimConfig(learning_rate=1.0, **changed)
    return [config.learning_rate_at(step, 10) for step in range(10)]


def test_the_learning_rate_is_constant_by_default():
    assert rates() == [1.0] * 10


def test_warm_up_reaches_the_peak_and_never_starts_at_zero():
    assert rates(warmup_steps=4) == [0.25, 0.5, 0.75] + [1.0] * 7


def test_linear_decay_ends_just_above_zero():
    assert rates(decay="linear") == pytest.approx([1 - step / 10 for step in range(10)])


def test_decay_starts_after_warm_up():
    found = rates(warmup_steps=5, decay="linear")
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_share_of_the_updates_warms_up_as_that_many_steps_do():
    assert rates(warmup_frac=0.4, decay="linear") == rates(warmup_steps=4, decay="linear")
    assert rates(warmup_frac=0.4) != rates()


def test_two_lengths_of_warm_up_are_refused():
    with pytest.raises(ValidationError, match="both say how long"):
        OptimConfig(warmup_steps=2, warmup_frac=0.1)


def test_a_stage_shorter_than_its_warm_up_only_warms_up():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, decay="linear")
    assert [config.learning_rate_at(step, 2) for step in range(2)] == pytest.approx([0.1, 0.2])


def test_a_floor_without_a_decay_is_refused():
    with pytest.raises(ValidationError, match="set decay to 'linear' or 'cosine'"):
        OptimConfig(min_lr_frac=0.1)


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"offload": "optimizer"}, "needs a zero_stage of 1 or more, got 0"),
        (
            {"offload": "optimizer_and_parameters", "zero_stage": 2},
            "needs a zero_stage of 3, got 2",
        ),
        ({"freeze_language_model": True}, "leave nothing to train; set one of them to false"),
    ],
)
def test_what_deepspeed_or_reason_refuses_is_refused_with_the_remedy(keys: dict, remedy: str):
    with pytest.raises(ValidationError, match=remedy):
        LearnerConfig(**keys)


def test_offload_is_allowed_from_the_stage_that_has_it():
    assert LearnerConfig(offload="optimizer", zero_stage=1).offload == "optimizer"
    both = LearnerConfig(offload="optimizer_and_parameters", zero_stage=3)
    assert both.offload == "optimizer_and_parameters"


def test_the_loss_has_deepintuits_settings():
    found = GrpoLossConfig().model_dump()
    assert found == {
        "adv_estimator": "grpo",
        "norm_adv_by_std_in_grpo": True,
        "adv_epsilon": 1e-6,
        "loss_mode": "vanilla",
        "clip_ratio_low": 0.2,
        "clip_ratio_high": 0.28,
        "clip_ratio_c": 3.0,
        "loss_agg_mode": "token-mean",
        "old_logprobs": "trainer",
        "rollout_is": "token",
        "rollout_is_threshold": 2.0,
        "kl_loss_coef": 0.0,
        "kl_loss_type": "k3",
        "kl_coef": 0.0,
        "kl_penalty": "k1",
        "entropy_coeff": 0.0,
        "mask_truncated": False,
    }
    assert not GrpoLossConfig().needs_reference


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"old_logprobs": "engine"}, "set rollout_is = 'none'"),
        ({"loss_mode": "gspo"}, "set rollout_is = 'sequence' or 'none'"),
        ({"rollout_is_threshold": (5.0, 0.5)}, r"a pair \[low, high\]"),
        ({"rollout_is_threshold": 0.0}, "must be a number above 0"),
        ({"rollout_is_threshold": math.inf}, "must be a number above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_a_remedy(settings: dict, remedy: str):
    with pytest.raises(ValidationError, match=remedy):
        GrpoLossConfig(**settings)


def test_a_band_is_written_as_a_list_in_a_recipe():
    config = GrpoLossConfig.model_validate({"rollout_is_threshold": [0.5, 5]})
    assert config.rollout_is_threshold == (0.5, 5.0)


@pytest.mark.parametrize("name", ["kl_loss_coef", "kl_coef"])
def test_a_kl_coefficient_asks_for_a_reference_model(name: str):
    assert GrpoLossConfig(**{name: 0.1}).needs_reference


def test_parity_is_strict_where_both_sides_are_exact():
    config = ParityConfig(tolerance=0.4)
    assert config.limit("float32", "float32") == 1e-4
    assert config.limit("bfloat16", "float32") == 0.4


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"merger_learning_rate": 0},
        {"vision_learning_rate": float("inf")},
        {"grad_clip": -1},
        {"kind": "adam"},
        {"decay": "cosine", "min_lr_frac": 1.5},
        {"betas": (0.9, 1.0)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ValidationError):
        OptimConfig(**wrong)
