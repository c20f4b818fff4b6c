"""The command fit, up to where a learner would start."""

from pathlib import Path

import pytest

from cluster.cli import main


def test_a_place_without_traces_is_an_error_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["fit", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no run and no archive" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_versions_that_are_none_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["fit", str(tmp_path), str(tmp_path / "out"), "--purpose", "test"])
    assert "invalid choice: 'test'" in capsys.readouterr().err
