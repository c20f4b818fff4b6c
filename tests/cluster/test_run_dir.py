import json
from pathlib import Path

import pytest

from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from cluster.run_files import result_figures
from wire.config import validate
from wire.errors import ConfigError
from wire.whole_file import write_json


def make_config(**changes: object) -> RunConfig:
    values = {
        "model": "model",
        "labels": [{"name": "a"}, {"name": "b"}],
        "data": {"manifest": "m.jsonl"},
    }
    return validate(RunConfig, values | changes, "recipe")


def start(path: Path, config: RunConfig) -> RunDir:
    """As a run that got as far as its archive."""
    run = open_dir(path, config)
    run.archive.mkdir()
    return run


def open_dir(path: Path, config: RunConfig, **how: bool) -> RunDir:
    return RunDir.open(path, config, **{"resume": False, "overwrite": False, **how})


def test_the_resolved_recipe_lies_beside_the_results(tmp_path: Path):
    open_dir(tmp_path / "run", make_config(seed=5)).close()
    assert json.loads((tmp_path / "run/run.json").read_text())["seed"] == 5


def test_a_second_run_never_gets_the_directory_by_accident(tmp_path: Path):
    start(tmp_path / "run", make_config()).close()
    with pytest.raises(ConfigError, match=r"--resume to go on.*--overwrite"):
        open_dir(tmp_path / "run", make_config())


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no run"):
        open_dir(tmp_path, make_config(), overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_log_may_be_open_before_its_run_and_survives_it(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.txt").write_text("study: starting")
    start(tmp_path / "run", make_config()).close()
    open_dir(tmp_path / "run", make_config(), overwrite=True).close()
    assert (tmp_path / "run/log.txt").read_text() == "study: starting"


def test_two_processes_cannot_run_in_one_directory(tmp_path: Path):
    first = start(tmp_path / "run", make_config())
    with pytest.raises(ConfigError, match="another process"):
        open_dir(tmp_path / "run", make_config(), resume=True)
    first.close()
    open_dir(tmp_path / "run", make_config(), resume=True).close()


def test_a_run_that_a_check_ended_may_be_started_again_with_a_mended_recipe(tmp_path: Path):
    open_dir(tmp_path / "run", make_config()).close()
    open_dir(tmp_path / "run", make_config(seed=9)).close()
    assert json.loads((tmp_path / "run/run.json").read_text())["seed"] == 9


def test_resuming_with_another_recipe_is_refused_by_section(tmp_path: Path):
    start(tmp_path / "run", make_config()).close()
    with pytest.raises(ConfigError, match=r"another grpo\.groups_per_step"):
        open_dir(tmp_path / "run", make_config(grpo={"groups_per_step": 3}), resume=True)
    other_place = make_config(
        cluster={"address": "ray://x:1"},
        rollout={"start_timeout_s": 5.0, "num_workers": 2},
        reward={"max_failure_frac": 0.5, "placement": "spread"},
    )
    open_dir(tmp_path / "run", other_place, resume=True).close()


def test_resuming_with_other_prompts_is_refused_by_the_name_of_the_text(tmp_path: Path):
    start(tmp_path / "run", make_config(prompts={"trace": "A {labels}"})).close()
    for prompts, name in (
        ({"trace": "B {labels}"}, "prompts.trace"),
        ({}, "prompts.trace"),
        ({"trace": "A {labels}", "system": "S"}, "prompts.system"),
    ):
        with pytest.raises(
            ConfigError, match=f"another {name}[ :].*the traces so far answer the other"
        ):
            open_dir(tmp_path / "run", make_config(prompts=prompts), resume=True)
    open_dir(tmp_path / "run", make_config(prompts={"trace": "A {labels}"}), resume=True).close()


def test_a_run_of_before_there_were_prompts_in_recipes_is_resumed_with_the_default_ones(
    tmp_path: Path,
):
    start(tmp_path / "run", make_config()).close()
    file = tmp_path / "run/run.json"
    values = json.loads(file.read_text())
    del values["prompts"]
    file.write_text(json.dumps(values))
    open_dir(tmp_path / "run", make_config(), resume=True).close()
    with pytest.raises(ConfigError, match=r"another prompts\.label[ :]"):
        open_dir(tmp_path / "run", make_config(prompts={"label": "L"}), resume=True)


def test_overwrite_starts_from_nothing(tmp_path: Path):
    first = start(tmp_path / "run", make_config())
    first.finish("base", {"seconds": 1.0})
    first.close()
    again = open_dir(tmp_path / "run", make_config(), overwrite=True)
    assert again.result("base") is None


def test_a_stage_is_finished_only_when_its_mark_is_whole(tmp_path: Path):
    run = open_dir(tmp_path / "run", make_config())
    assert run.result("grpo") is None
    write_json(run.path / "stages/grpo/done.json", {"seconds": 2.0})
    assert run.result("grpo") == {"seconds": 2.0}
    assert not list(run.path.rglob("*.partial"))


def test_a_model_directory_is_no_run_and_is_never_emptied(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for how in ({}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="holds no run"):
            open_dir(tmp_path, make_config(), **how)
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_there_must_be_a_run_to_resume(tmp_path: Path):
    with pytest.raises(ConfigError, match="no run in"):
        open_dir(tmp_path / "typo", make_config(), resume=True)


def test_a_run_directory_in_the_working_directory_of_a_ray_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_5f3a"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    with pytest.raises(ConfigError, match=r"temporary working directory of a Ray job.*absolute"):
        RunDir.open(Path("runs/demo"), make_config(), resume=False, overwrite=False)
    assert list(job.iterdir()) == []
    RunDir.open(tmp_path / "runs/demo", make_config(), resume=False, overwrite=False).close()


def test_a_file_is_no_run_directory(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        open_dir(tmp_path / "file", make_config())


def test_control_arms_may_be_chosen_after_the_stages_have_run(tmp_path: Path):
    start(tmp_path / "run", make_config()).close()
    recipe = tmp_path / "run/run.json"
    old = json.loads(recipe.read_text())
    del old["controls"]  # as a run of an earlier version
    recipe.write_text(json.dumps(old))
    config = make_config(controls={"num_votes": 3, "arms": ["vote"]})
    open_dir(tmp_path / "run", config, resume=True).close()


def test_the_figures_of_a_result_are_of_answers_or_verdict_or_head():
    answers, verdict, head = {"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 0.7}
    assert result_figures({"evaluation": answers, "seconds": 1.0}) == answers
    assert result_figures({"verdict": verdict, "head": head}) == verdict
    assert result_figures({"head": head}) == head
    assert result_figures({"cost": {}}) == {}
