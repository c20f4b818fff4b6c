import json
from pathlib import Path

import pytest

from cluster.run_files import (
    RunHistory,
    is_locked,
    prediction_files,
    prompt_versions,
    read_history,
    read_label_names,
    read_result,
    recipe_fault,
    result_figures,
    validation_outcome,
)
from cluster.status.heartbeat import State
from cluster.status.run_status import read_status
from tests.cluster.session_fakes import NAMES, make_config, make_run_dir
from wire.errors import ConfigError, DataError


def test_a_directory_is_locked_while_a_process_has_it_open(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config())
    assert is_locked(run_dir.path) is True
    run_dir.close()
    assert is_locked(run_dir.path) is False
    assert is_locked(tmp_path / "no run") is False


def test_results_and_labels_are_read_while_another_process_writes(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    result = read_result(run_dir.path, "base")
    assert result == run_dir.result("base")
    assert read_result(run_dir.path, "grpo") is None
    assert read_label_names(run_dir.path) == NAMES
    run_dir.close()


def test_labels_of_no_run_and_of_a_damaged_recipe_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no run in"):
        read_label_names(tmp_path)
    for text in ("{", json.dumps({"model": "m"}), "[]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError, match="is not a run's recipe"):
            read_label_names(tmp_path)


def test_the_figures_of_a_result_are_those_of_its_answers_first():
    assert result_figures({"evaluation": {"accuracy": 1}, "head": {"accuracy": 0}})["accuracy"] == 1
    assert result_figures({"verdict": {"accuracy": 1}, "head": {"accuracy": 0}})["accuracy"] == 1
    assert result_figures({"head": {"accuracy": 1}}) == {"accuracy": 1}
    assert result_figures({"seconds": 1.0}) == {}


@pytest.mark.parametrize(
    ("first", "num", "words"),
    [
        (0.2, 3, "best val/accuracy 0.5 at step 4; left the weights of step 4 (the best)"),
        (0.5, 3, "val/accuracy was never better than at first, 0.5; left the weights of step 4"),
        (0.5, 1, "best val/accuracy 0.5 at step 4; left the weights of step 4 (the best)"),
    ],
)
def test_validations_that_never_gained_are_not_called_the_best(first: float, num: int, words: str):
    steps = {"best_step": 4, "left_step": 4, "num_validations": num}
    figures = {"metric": "val/accuracy", "best": 0.5, "first": first}
    assert validation_outcome({"validation": {**figures, **steps}}) == words


def test_versions_of_prompts_are_told_where_one_is_the_recipes_own():
    default = {"prompt_versions": {"trace": "1", "label": "1"}}
    assert prompt_versions([{}, default]) == ""
    assert prompt_versions([{"prompt_versions": {"trace": "ab", "label": "1"}}]) == "trace ab"


def test_predictions_come_by_stage_then_arms_by_name(tmp_path: Path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name in ("vote", "grpo", "base", "blank"):
        (folder / f"{name}.parquet").touch()
    assert list(prediction_files(tmp_path)) == ["base", "grpo", "blank", "vote"]


BROKEN = {
    "empty": ("", "it is empty"),
    "only zeros, as after a crash of the machine": ("\0" * 64, "it is empty"),
    "half written": ('{"model": "m", "labels": [', "it is cut off or damaged"),
    "another program's": ('{"epochs": 3}', "it has no model, labels and data"),
    "a list": ("[1, 2]", "it has no model, labels and data"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_recipe_is_named_with_what_is_wrong_and_what_to_do(tmp_path: Path, name: str):
    text, fault = BROKEN[name]
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    run_dir.close()
    assert recipe_fault(run_dir.path) == ""
    (run_dir.path / "run.json").write_text(text)
    said = recipe_fault(run_dir.path)
    assert f"{run_dir.path}/run.json is not a run's recipe: {fault}" in said
    assert "restore it from a copy, or start the run anew (--overwrite)" in said
    (run_dir.path / "run.json").write_bytes(b"\xff\xfe\x00binary")
    assert "binary data" in recipe_fault(run_dir.path)


def test_a_recipe_of_another_version_is_named_by_the_settings_that_are_unknown(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config())
    run_dir.close()
    file = run_dir.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "telepathy": {"on": True}}))
    said = recipe_fault(run_dir.path)
    assert "another version of this program wrote this recipe" in said
    assert "unknown key 'telepathy'" in said
    older = run_dir.path / "replaced/before-attempt-002"
    older.mkdir(parents=True)
    (older / "run.json").write_text("{}")
    file.write_text("")
    assert f"({older}/run.json is what it was before a resume changed it)" in recipe_fault(
        run_dir.path
    )


def test_a_run_without_a_readable_recipe_is_at_no_stage_and_has_not_finished(tmp_path: Path):
    (tmp_path / "run.json").write_text("")
    status = read_status(tmp_path)
    assert (status.state, status.stage) == (State.STOPPED, "")
    assert "it is empty" in status.fault


def test_a_damaged_result_is_named(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    (run_dir.path / "stages/base/done.json").write_text("{")
    with pytest.raises(DataError, match=r"done\.json is cut off or damaged .* remove it"):
        run_dir.result("base")
    run_dir.close()


def test_the_history_says_what_resumes_changed_and_what_began_anew(tmp_path: Path):
    assert read_history(tmp_path) == RunHistory()
    change = {
        "name": "grpo.num_steps",
        "before": 3,
        "now": 6,
        "holds": "grpo goes on after 3 steps",
    }
    lines = [
        {"attempt": 0},
        {"attempt": 1, "changes": [change], "restarted": ["calibrated", "vote"]},
        {"attempt": 2, "restarted": ["vote"]},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"attempt": 3, "chan'
    (tmp_path / "attempts.jsonl").write_text(text)
    history = read_history(tmp_path)
    assert history.changes == ("attempt 1: grpo.num_steps = 6 (was 3), grpo goes on after 3 steps",)
    assert history.beginnings == {"calibrated": 1, "vote": 2}


def test_a_change_of_a_resume_that_was_killed_before_it_began_is_told_once(tmp_path: Path):
    def attempt(number: int, before: int, now: int) -> str:
        change = {"name": "grpo.num_steps", "before": before, "now": now, "holds": "at once"}
        return json.dumps({"attempt": number, "changes": [change]}) + "\n"

    lines = [attempt(1, 3, 6), attempt(2, 3, 6), attempt(3, 6, 3), attempt(4, 3, 6)]
    (tmp_path / "attempts.jsonl").write_text("".join(lines))
    assert [text.split(",")[0] for text in read_history(tmp_path).changes] == [
        "attempt 2: grpo.num_steps = 6 (was 3)",
        "attempt 3: grpo.num_steps = 3 (was 6)",
        "attempt 4: grpo.num_steps = 6 (was 3)",
    ]
