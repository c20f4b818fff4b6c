import json
from pathlib import Path

import pytest

from cluster.run_files import (
    is_locked,
    prediction_files,
    read_label_names,
    read_result,
    result_figures,
)
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


def test_predictions_come_by_stage_then_arms_by_name(tmp_path: Path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name in ("vote", "grpo", "base", "blank"):
        (folder / f"{name}.parquet").touch()
    assert list(prediction_files(tmp_path)) == ["base", "grpo", "blank", "vote"]
