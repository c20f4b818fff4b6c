"""[validate] of a recipe: inherited section by section, refused where it cannot mean anything."""

from typing import Any

import pytest

from cluster.config.recipe import RunConfig
from cluster.config.stages import GrpoConfig
from cluster.config.validation import ValidateConfig, mode_of
from tests.cluster.session_fakes import make_config
from wire.config import validate
from wire.errors import ConfigError


def every_of(config: RunConfig) -> dict[str, int]:
    return {stage.name: stage.validated.every for stage in config.chain}


def test_nothing_is_validated_unless_it_is_asked_for():
    assert set(every_of(make_config()).values()) == {0}


def test_a_section_overrides_what_all_trainings_have_in_common():
    config = make_config(
        validate={"every": 10, "num_clips": 7}, grpo={"num_steps": 3, "validate": {"every": 5}}
    )
    assert every_of(config) == {"base": 0, "coldstart": 10, "grpo": 5, "calibrated": 10}
    assert config.chain["grpo"].validated.num_clips == 7
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_stage_of_the_chain_overrides_the_section_of_its_kind():
    stages = [
        {"name": "a", "kind": "grpo"},
        {"name": "b", "kind": "grpo", "validate": {"every": 0}},
        {"name": "c", "kind": "calibrate", "methods": ["head"]},
    ]
    config = make_config(stages=stages, validate={"every": 4}, grpo={"validate": {"patience": 2}})
    assert every_of(config) == {"a": 4, "b": 0, "c": 0}
    assert config.chain["b"].validation.patience == 2
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_last_step_and_the_start_are_validated():
    config = ValidateConfig(every=4)
    assert [step for step in range(11) if config.is_due(step, 10)] == [0, 4, 8, 10]
    assert config.num_validations(10) == 4
    later = ValidateConfig(every=4, before_training=False)
    assert [step for step in range(9) if later.is_due(step, 8)] == [4, 8]
    assert later.num_validations(8) == 2
    assert ValidateConfig().num_validations(8) == 0


def test_weights_that_may_be_gone_back_to_are_saved():
    def saved(**settings: Any) -> list[int]:
        grpo = validate(GrpoConfig, {"num_steps": 10, "save_every": 5, **settings}, "grpo")
        return [step for step in range(1, 11) if grpo.saves_at(step)]

    every = {"validate": {"every": 3}}
    assert saved() == saved(**every) == [5, 10]
    assert saved(**every, keep_best_by="val/accuracy") == [3, 5, 6, 9, 10]
    assert saved(validate={"every": 3, "restore_best": True}) == [3, 5, 6, 9, 10]


def test_going_back_to_the_best_takes_a_version_of_its_own():
    plain, back = make_config(), make_config(grpo={"validate": {"every": 1, "restore_best": True}})
    steps = [config.chain.last_step("grpo") for config in (plain, back)]
    assert steps[1] - back.chain.first_step("grpo") == 240 + 1
    assert steps[0] - plain.chain.first_step("grpo") == 3


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/accuracy", "max"),
        ("val/reward/mean", "max"),
        ("val/nll", "min"),
        ("nll", "min"),
        ("val/unparsed_frac", "min"),
        ("reward/frac_zero_std", "min"),
        ("kl", "min"),
        ("entropy", "max"),
        ("val/macro_f1", "max"),
    ],
)
def test_a_metrics_name_says_whether_more_is_better(metric: str, mode: str):
    assert mode_of(metric) == mode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate": {"split": "test"}}, r"validate: split = 'test': weights that were chosen by"),
        ({"grpo": {"validate": {"split": "test"}}}, r"grpo.validate.split = 'test'"),
        ({"validate": {"evry": 3}}, "recipe: validate: unknown key 'evry'; did you mean 'every'"),
        ({"validate": {"test_freq": 3}}, r"'test_freq' \(verl\): here it is validate.every"),
        ({"validate": {"eval_steps": 3}}, r"'eval_steps' \(TRL\): here it is validate.every"),
        ({"grpo": {"validate": {"evry": 3}}}, "'grpo.validate.evry'; did you mean 'every'"),
        ({"validate": {"patience": 3}}, "validate.patience is set, but validate.every = 0"),
        ({"validate": {"restore_best": True}}, "validate.restore_best is set, but validate.every"),
    ],
)
def test_a_mistake_is_named_once_with_a_remedy(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message) as refused:
        make_config(**changes)
    assert str(refused.value).count("evry") <= 1
