import json
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.pool.worker_view import FLEET_FILE, write_fleet
from tests.cluster.session_fakes import make_config, make_run_dir
from tests.cluster.status.test_fleet_status import VIEW


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_dir = make_run_dir(tmp_path, make_config())
    run_dir.close()
    return run_dir.path


def test_workers_of_a_run_are_printed_as_json_and_none_serves_in_one_that_ended(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    write_fleet(run, VIEW)
    assert main(["workers", str(run), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["desired"], plain["epoch"], plain["live"]) == (4, 7, False)
    assert [worker["state"] for worker in plain["workers"]] == ["healthy", "stale", "dead"]
    assert plain["workers"][0]["conditions"][1] == {
        "type": "Serving",
        "status": "Unknown",
        "since": 80.0,
        "reason": "run_ended",
    }


def test_a_run_without_a_view_of_its_workers_is_a_users_error(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["workers", str(run)]) == 2
    assert "has no fleet.json" in capsys.readouterr().err


def test_a_folder_without_a_run_is_a_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["workers", str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_a_view_that_cannot_be_read_is_not_taken_for_none(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    (run / FLEET_FILE).write_text('{"time": 1')
    assert main(["workers", str(run)]) == 2
    assert "fleet.json is damaged, or of another version" in " ".join(
        capsys.readouterr().err.split()
    )
