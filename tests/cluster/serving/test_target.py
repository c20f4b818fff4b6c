from pathlib import Path

import pytest

from cluster.serving.target import target_of
from tests.calibrate.classifiers import publish
from wire.errors import ConfigError, DataError


def test_a_run_is_served_with_its_classifier_and_its_archive(tmp_path: Path):
    run = tmp_path / "demo"
    stage = run / "stages" / "calibrated"
    stage.mkdir(parents=True)
    publish(tmp_path).path.rename(stage / "classifier")
    (stage / "done.json").write_text("{}")
    (run / "run.json").write_text("{}")
    (run / "archive").mkdir()
    target = target_of(run, None)
    assert target.state == tmp_path / "demo.service"
    assert target.classifier == stage / "classifier"
    assert target.archives == {"demo": run}


def test_a_classifier_is_served_from_where_it_is(tmp_path: Path):
    classifier = publish(tmp_path).path
    target = target_of(classifier, tmp_path / "s")
    assert (target.state, target.classifier, target.archives) == (tmp_path / "s", classifier, {})


def test_a_state_directory_is_served_as_it_is(tmp_path: Path):
    (tmp_path / "service.sqlite").touch()
    assert target_of(tmp_path, None).classifier is None
    with pytest.raises(ConfigError, match="give one"):
        target_of(tmp_path, tmp_path / "other")


def test_a_folder_that_is_none_of_these_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no classifier"):
        target_of(tmp_path, None)
