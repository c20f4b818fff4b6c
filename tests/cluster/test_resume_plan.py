from pathlib import Path

import pytest

from cluster.resume_plan import newest_checkpoint, plan_resume
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import make_config, make_run_dir
from wire.errors import ConfigError, DataError

ALL = ("base", "coldstart", "grpo", "calibrated")


def with_checkpoint(run_dir: RunDir, stage: str, step: int) -> None:
    folder = run_dir.checkpoints(stage) / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def finished(path: Path) -> RunDir:
    run_dir = make_run_dir(path, make_config(), *ALL)
    with_checkpoint(run_dir, "grpo", 3)
    run_dir.close()
    return run_dir


def test_a_longer_stage_is_reopened_and_what_came_from_it_restarted(tmp_path: Path):
    run_dir = finished(tmp_path)
    grpo = {"num_steps": 5, "groups_per_step": 2, "save_every": 1}
    plan = plan_resume(run_dir.path, make_config(grpo=grpo))
    assert plan.reopened == ("grpo",)
    assert plan.restarted[0] == "calibrated"
    assert "vote" in plan.restarted, "an arm that measures the longer stage's policy"
    assert "rejection" in plan.restarted, "an arm that writes as many traces as GRPO"
    assert "coldstart_val" not in plan.restarted
    assert plan.also_predicted("calibrated") == ("head", "classifier")
    assert plan.without("grpo").reopened == ()


def test_a_stage_that_is_done_anew_takes_its_changes_from_its_start(tmp_path: Path):
    run_dir = finished(tmp_path)
    with_checkpoint(run_dir, "coldstart", 3)
    longer = make_config().coldstart.model_dump() | {"epochs": 9}
    fewer = {"num_steps": 1, "groups_per_step": 2, "save_every": 1, "optim": {"decay": "cosine"}}
    plan = plan_resume(run_dir.path, make_config(coldstart=longer, grpo=fewer))
    assert plan.reopened == ("coldstart",)
    assert {"grpo", "calibrated"} <= {*plan.restarted}
    held = {change.name: change.holds for change in plan.changes}
    assert held["grpo.num_steps"] == held["grpo.optim.decay"] == "from the start of grpo"
    with pytest.raises(ConfigError, match="grpo has finished 3 steps already"):
        plan_resume(run_dir.path, make_config(grpo=fewer))


def test_the_same_recipe_plans_nothing(tmp_path: Path):
    plan = plan_resume(finished(tmp_path).path, make_config())
    assert (plan.changes, plan.reopened, plan.restarted) == ((), (), ())


def test_the_newest_checkpoint_is_the_newest_whole_one(tmp_path: Path):
    run_dir = finished(tmp_path)
    (run_dir.checkpoints("grpo") / "step-000009").mkdir()
    (run_dir.checkpoints("grpo") / ".step-000012.partial").mkdir()
    assert newest_checkpoint(run_dir.path, "grpo") == 3
    assert newest_checkpoint(run_dir.path, "coldstart") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "m"}', '{"a": 1, "model"'])
def test_a_broken_recipe_is_named_with_what_to_do(tmp_path: Path, text: str):
    run_dir = finished(tmp_path)
    (run_dir.path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json is not a run's recipe.*restore it from a copy"):
        plan_resume(run_dir.path, make_config())
