"""Which settings of a resumed run may change: by name, by how far the stage is, with reasons."""

from typing import Any

import pytest

from cluster.config.resume_rules import Change, StageProgress, changes_of, documented
from cluster.resume_plan import settings_of
from tests.cluster.session_fakes import make_config
from wire.errors import ConfigError

NOT_STARTED = StageProgress()
AT_40 = StageProgress(step=40)
DONE = StageProgress(length=3, step=3, can_go_on=True, has_policy=True)
DONE_WITHOUT_CHECKPOINT = StageProgress(length=3, has_policy=True)


def change(before: dict[str, Any], now: dict[str, Any], **progress: StageProgress) -> list[Change]:
    stages = dict.fromkeys(("base", "coldstart", "grpo", "calibrated"), NOT_STARTED)
    old, new = settings_of(make_config(**before)), settings_of(make_config(**now))
    return list(changes_of(old, new, stages | progress, "runs/a"))


def refusal(before: dict[str, Any], now: dict[str, Any], **progress: StageProgress) -> str:
    with pytest.raises(ConfigError) as refused:
        change(before, now, **progress)
    return str(refused.value)


def grpo(**changes: Any) -> dict[str, Any]:
    return {"grpo": {"num_steps": 50, **changes}}


def test_a_change_says_from_when_on_it_holds():
    now = grpo(num_steps=60, save_every=7, optim={"learning_rate": 1e-5, "decay": "cosine"})
    changes = {one.name: one.holds for one in change(grpo(), now, grpo=AT_40)}
    assert changes == {
        "grpo.num_steps": "from step 41 of grpo",
        "grpo.save_every": "from the next checkpoint on",
        "grpo.optim.learning_rate": "from step 41 of grpo",
        "grpo.optim.decay": "from step 41 of grpo",
    }
    (longer,) = change(grpo(num_steps=3), grpo(num_steps=6), grpo=DONE)
    assert longer.holds == "grpo goes on after 3 steps"
    (back,) = change(grpo(num_steps=6), grpo(num_steps=3), grpo=DONE)
    assert back.holds == "grpo stays as it has finished", "its longer training had not finished"
    (later,) = change(grpo(), grpo(num_steps=6))
    assert later.holds == "from the start of grpo"


def test_fewer_steps_may_be_asked_for_as_long_as_no_more_are_done():
    (fewer,) = change(grpo(), grpo(num_steps=40), grpo=AT_40)
    assert fewer.now == 40
    assert "grpo.num_steps (50, now 39): grpo has a checkpoint of step 40" in refusal(
        grpo(), grpo(num_steps=39), grpo=AT_40
    )
    assert "grpo has finished 3 steps already" in refusal(
        grpo(num_steps=3), grpo(num_steps=2), grpo=DONE
    )
    short = {"coldstart": {"epochs": 2}}
    assert "coldstart has a checkpoint of update 40" in refusal({}, short, coldstart=AT_40)


def test_a_finished_stage_goes_on_only_with_its_checkpoint():
    said = refusal(grpo(num_steps=3), grpo(num_steps=6), grpo=DONE_WITHOUT_CHECKPOINT)
    assert "grpo has finished, and the checkpoint that it could go on from is gone" in said
    assert "--from runs/a:grpo --run-dir NEW" in said


def test_a_rate_without_anything_left_to_train_is_refused():
    slow = grpo(num_steps=3, optim={"learning_rate": 1e-5})
    assert "nothing of it is left to train" in refusal(grpo(num_steps=3), slow, grpo=DONE)
    longer = grpo(num_steps=6, optim={"learning_rate": 1e-5})
    names = [one.name for one in change(grpo(num_steps=3), longer, grpo=DONE)]
    assert names == ["grpo.num_steps", "grpo.optim.learning_rate"]


def test_a_cold_start_does_not_come_or_go():
    said = refusal({"coldstart": {"epochs": 0}}, {"coldstart": {"epochs": 2}})
    assert "another coldstart.epochs (0, now 2): 0 epochs leave the stage out" in said


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"model": "other"}, r"another model \('base-model', now 'other'\): the checkpoints and"),
        ({"labels": [{"name": "a"}, {"name": "b"}]}, "another labels: the prompts, answers"),
        ({"data": {"manifest": "other.jsonl"}}, "another data.manifest .*: the order of the clips"),
        ({"data": {"manifest": "m.jsonl", "use_side_text": True}}, "another data.use_side_text"),
        ({"seed": 7}, r"another seed \(0, now 7\): the order of the clips"),
        ({"video": {"max_frames": 3}}, "another video.max_frames .*: the traces so far are of"),
        (
            {"reward": {"terms": [{"function": "accuracy", "weight": 0.5}]}},
            "another reward.terms.* judged by the other reward",
        ),
        ({"grpo": {"groups_per_step": 9}}, "another grpo.groups_per_step .*: a stage has one such"),
        ({"grpo": {"optim": {"kind": "sgd"}}}, "another grpo.optim.kind .*: the optimiser's saved"),
        (
            {"learner": {"zero_stage": 1, "lora": {}}},
            "another learner.lora.*: the checkpoints were",
        ),
    ],
)
def test_what_may_not_change_is_refused_with_its_reason_and_the_way_out(
    now: dict[str, Any], reason: str
):
    base = {"grpo": {}, "rollout": {}, "learner": {}}
    with pytest.raises(ConfigError, match=reason) as refused:
        change(base, base | now, coldstart=DONE)
    assert "or start a new run from a stage of this one (--from runs/a:coldstart" in str(
        refused.value
    )


def test_the_documented_rules_cover_every_setting_of_a_recipe():
    rows = list(documented())
    assert {may for _, may, _ in rows} == {"yes", "no"}
    assert all(settings and text for settings, _, text in rows)


def test_a_number_of_groups_that_follows_the_steps_is_refused_with_the_way_around_it():
    stages = [{"name": "own", "kind": "sft", "data": "own"}, {"name": "g", "kind": "grpo"}]
    old, new = (make_config(stages=stages, **grpo(num_steps=steps)) for steps in (3, 6))
    progress = {"own": DONE, "g": DONE}
    with pytest.raises(ConfigError, match=r"stages\.own\.num_groups .*lengthen the GRPO stage al"):
        changes_of(settings_of(old), settings_of(new), progress, "runs/a")
    longer = [stages[0] | {"num_groups": 3 * 64}, stages[1]]
    new = make_config(stages=longer, **grpo(num_steps=6))
    names = [one.name for one in changes_of(settings_of(old), settings_of(new), progress, "r")]
    assert names == ["grpo.num_steps", "stages.g.num_steps"]
