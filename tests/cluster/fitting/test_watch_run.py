import json
from pathlib import Path
from typing import Any

import pytest

from cluster.fitting.watch_run import open_watched, run_recipe_with, run_state
from cluster.status.heartbeat import State
from tests.cluster.fitting.scripted_runs import ScriptedRun, recipe
from wire.errors import ConfigError


def test_a_run_and_the_archive_in_it_are_the_same_to_watch(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    assert open_watched(run.path) == open_watched(run.path / "archive")
    assert open_watched(run.path).stage.name == "grpo"
    assert run_state(run.path) == (State.RUNNING, "")
    run.die()
    assert run_state(run.path)[0] is State.STOPPED


def test_settings_are_put_over_the_runs_recipe_for_the_fits_alone(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    config = run_recipe_with(run.path, ("learner.num_threads=1", "calibrate.label_errors=false"))
    assert config.learner.num_threads == 1
    assert not config.calibrate.label_errors
    assert open_watched(run.path).config.learner.num_threads != 1
    with pytest.raises(ConfigError, match="num_threds"):
        run_recipe_with(run.path, ("learner.num_threds=1",))
    run.die()


def test_of_several_grpo_stages_the_last_is_watched_or_the_one_that_is_named(tmp_path: Path):
    stages: list[dict[str, Any]] = [
        {"name": name, "kind": "grpo", "validate": {"every": 1}} for name in ("g1", "g2")
    ]
    stages.append({"name": "shown", "kind": "evaluate"})
    run = ScriptedRun(tmp_path / "run", recipe(stages=stages))
    assert open_watched(run.path).stage.name == "g2"
    assert open_watched(run.path, "g1").stage.name == "g1"
    with pytest.raises(ConfigError, match="GRPO stages are g1, g2"):
        open_watched(run.path, "shown")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grpo": {"num_steps": 3}}, r"not validated \(validate.every = 0\).*every = N"),
        ({"stages": [{"name": "shown", "kind": "evaluate"}]}, "no GRPO stage"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], words: str
):
    run = ScriptedRun(tmp_path / "run", recipe(**changes))
    with pytest.raises(ConfigError, match=words):
        open_watched(run.path)


def test_a_folder_that_is_no_run_is_refused_with_what_to_give(tmp_path: Path):
    (tmp_path / "archive" / "traces").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is no run, nor the archive in one"):
        open_watched(tmp_path / "archive")
    with pytest.raises(ConfigError, match="there is no"):
        open_watched(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text(json.dumps({"model": "m"}))
    with pytest.raises(Exception, match="not a run's recipe"):
        open_watched(tmp_path)
