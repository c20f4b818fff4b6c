from typing import Any

import pytest

from cluster.config.kinds.rationales import RationalesStage
from rollout.config import RolloutConfig
from tests.cluster.session_fakes import make_config, make_samples
from wire.config import validate
from wire.errors import ConfigError


def make(**settings: object) -> RationalesStage:
    return validate(RationalesStage, {"name": "why", **settings}, "stages.why")


def test_captions_are_never_told_the_label():
    assert make().names_label
    assert not make(hint=False).names_label
    assert not make(task="caption").names_label
    assert make(task="caption").describe() == "captions that the policy writes"


def test_it_writes_k_rationales_of_each_of_its_clips_and_trains_nothing():
    work = make(num_rationales=3).work(make_samples(), RolloutConfig(group_size=8))
    assert (work.clips, work.groups, work.rollouts, work.updates) == (8, 8, 24, 0)
    assert make().work(None, RolloutConfig()).rollouts is None
    assert not make().leaves_policy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leak_patterns": ["("]}, "is no regular expression"),
        ({"leak_patterns": ["told|"]}, r"'told\|' fits every text"),
        ({"closing": "Label:"}, "closing"),
        ({"closing": "**"}, "closing"),
        ({"num_rationales": 0}, "num_rationales"),
        ({"task": "captoin"}, "task"),
        ({"filters": {"leek": True}}, "leek"),
        ({"min_kept_frac": 1.5}, "min_kept_frac"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_a_split_without_clips_is_a_fault_of_the_data():
    train_only = [sample for sample in make_samples() if sample.split == "train"]
    (fault,) = make(clips={"splits": ["cal"]}).data_faults(train_only)
    assert "split='cal'" in str(fault)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 99999}, r"stages.why.max_length=99999 is more than the engines write"),
        ({"prompts": {"rationale": "Why?"}}, r"prompts.rationale has no {hint}"),
        ({"prompts": {"hint": "It is known."}}, r"prompts.hint has no {label}"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str):
    prompts = changes.get("prompts", {})
    stage = {"name": "why", "kind": "rationales"} | {
        key: value for key, value in changes.items() if key != "prompts"
    }
    with pytest.raises(ConfigError, match=message):
        make_config(stages=[stage], prompts=prompts)
    assert make_config(stages=[{"name": "why", "kind": "rationales", "hint": False}],
                       prompts=prompts)  # fmt: skip


@pytest.mark.parametrize("source", ["manifest", None])
def test_a_label_that_the_prompt_cannot_tell_is_refused_where_it_is_to_be_told_in_training(
    source: str | None,
):
    writes = {"name": "why", "kind": "rationales", "hint": False}
    learns = {"name": "learns", "kind": "sft", "data": "rationales", "rationales": source}
    prompts = {"rationale": "Why?"}
    with pytest.raises(ConfigError, match=r"learns.hint='keep' names .* or set hint='remove'"):
        make_config(stages=[writes, learns | {"hint": "keep"}], prompts=prompts)
    assert make_config(stages=[writes, learns], prompts=prompts)


def test_the_section_gives_what_the_stage_does_not_set():
    stages = [{"name": "why", "kind": "rationales", "filters": {"leak": False}}]
    section = {"num_rationales": 4, "filters": {"duplicate": False}}
    (stage,) = make_config(stages=stages, rationales=section).chain
    assert isinstance(stage, RationalesStage)
    assert stage.num_rationales == 4
    assert (stage.filters.leak, stage.filters.duplicate, stage.filters.parse) == (
        *(False, False, True),
    )
