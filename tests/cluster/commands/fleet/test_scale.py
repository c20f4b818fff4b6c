from pathlib import Path

import pytest

from cluster.cli import main
from cluster.pool.desired_workers import DesiredWorkers
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import make_config, make_run_dir


def make_run(path: Path, **rollout: int) -> Path:
    run_dir: RunDir = make_run_dir(path, make_config(rollout={"dtype": "float32", **rollout}))
    run_dir.close()
    return run_dir.path


def test_a_number_between_the_limits_is_written_for_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = make_run(tmp_path, min_workers=1, max_workers=20)
    assert main(["scale", str(run), "--workers", "12"]) == 0
    assert DesiredWorkers(run).read() == 12
    assert "12 rollout worker(s) once it goes on" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "-3", "21"])
def test_another_number_is_refused_with_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
):
    run = make_run(tmp_path, max_workers=20)
    assert main(["scale", str(run), "--workers", workers]) != 0
    assert "between rollout.min_workers=1 and rollout.max_workers=20" in " ".join(
        capsys.readouterr().err.split()
    )
    assert DesiredWorkers(run).read() is None


def test_a_run_of_a_fixed_number_says_how_to_make_it_elastic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = make_run(tmp_path)
    assert main(["scale", str(run), "--workers", "2"]) != 0
    assert "--set rollout.max_workers=N" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["scale", str(tmp_path), "--workers", "2"]) != 0
    assert str(tmp_path) in "".join(capsys.readouterr().err.split())


def test_a_run_directory_that_cannot_be_written_to_is_a_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = make_run(tmp_path, max_workers=20)
    (run / "control").write_text("in its way")
    assert main(["scale", str(run), "--workers", "2"]) == 2
    assert "cannot write" in capsys.readouterr().err
