from pathlib import Path

from cluster.pool.worker_health import HealthState
from cluster.pool.worker_view import FLEET_FILE, FleetView, WorkerView, read_fleet, write_fleet

VIEW = FleetView(
    time=1764529200.0,
    attempt=1,
    epoch=7,
    desired=2,
    version="1.41",
    workers=(
        WorkerView(name="rollout-0", state=HealthState.HEALTHY, since=1.0, cause="weights_proven"),
        WorkerView(name="rollout-1", state=HealthState.DEAD, since=2.0, cause="node_died", pid=7),
    ),
)


def test_a_view_is_read_as_it_was_written(tmp_path: Path):
    write_fleet(tmp_path, VIEW)
    assert read_fleet(tmp_path) == VIEW


def test_a_run_of_an_earlier_version_has_no_view_and_a_broken_file_is_none(tmp_path: Path):
    assert read_fleet(tmp_path) is None
    (tmp_path / FLEET_FILE).write_text('{"time": 1}')
    assert read_fleet(tmp_path) is None
