import time
from dataclasses import replace
from pathlib import Path

from cluster.metrics.events import EventLog
from cluster.pool.worker_health import HealthState
from cluster.pool.worker_view import Condition, FleetView, WorkerView, write_fleet
from cluster.status.fleet_status import (
    FleetStatus,
    fleet_in_words,
    fleet_line,
    limits_in_words,
    read_fleet_status,
)

STATES = (HealthState.HEALTHY, HealthState.STALE, HealthState.DEAD)


def worker(number: int, state: HealthState) -> WorkerView:
    return WorkerView(
        name=f"rollout-{number}",
        state=state,
        since=90.0,
        cause="started",
        restarts=number,
        conditions=(
            Condition(type="Alive", status=state.runs, since=90.0),
            Condition(type="Serving", status=state.serves, since=80.0),
        ),
    )


VIEW = FleetView(
    time=100.0,
    attempt=1,
    epoch=7,
    desired=4,
    version="1.41",
    workers=tuple(worker(number, state) for number, state in enumerate(STATES)),
    num_moved=5,
)


def status(run_dir: Path, *, live: bool = True) -> FleetStatus:
    write_fleet(run_dir, VIEW)
    found = read_fleet_status(run_dir, live=live, num_events=2, now=130.0)
    assert found is not None
    return found


def test_healthy_is_told_from_alive_and_from_serving(tmp_path: Path):
    fleet = status(tmp_path)
    assert fleet.num_serving == 1
    assert [fleet.conditions(one) for one in VIEW.workers] == [
        {"Alive": "True", "Serving": "True"},
        {"Alive": "True", "Serving": "False"},
        {"Alive": "False", "Serving": "False"},
    ]
    assert fleet.age_s == 30.0


def test_nothing_serves_once_the_run_has_died_whatever_its_file_says(tmp_path: Path):
    fleet = status(tmp_path, live=False)
    assert fleet.num_serving == 0
    plain = fleet.to_plain()
    conditions = {one["status"] for own in plain["workers"] for one in own["conditions"]}
    assert (plain["live"], plain["serving"], conditions) == (False, 0, {"Unknown"})


def test_the_last_events_are_listed_without_the_many_moved_requests(tmp_path: Path):
    log = EventLog(tmp_path, 1)
    for kind in ("scaled", "node_lost", *["request_moved"] * 5, "stalled"):
        log.note(kind, kind)
    assert [event.kind for event in status(tmp_path).events] == ["node_lost", "stalled"]


def test_a_run_without_a_fleet_file_has_no_status(tmp_path: Path):
    assert read_fleet_status(tmp_path, live=True, num_events=2) is None


def test_a_running_fleet_is_a_line_with_the_last_that_happened(tmp_path: Path):
    assert fleet_line(tmp_path, time.time()) == ""
    write_fleet(tmp_path, VIEW)
    EventLog(tmp_path, 1).note("worker_state", "rollout-2", state="dead", cause="node_died")
    line = fleet_line(tmp_path, time.time() + 40)
    assert line.endswith("; rollout-2 is dead (node_died), 40 s ago")


def test_a_fleet_is_a_line_of_words():
    assert (
        fleet_in_words(VIEW)
        == "1 of 4 workers serve, 1 dead, 1 stale, 3 restarts, 5 requests moved"
    )


def test_workers_in_an_update_are_told_from_those_that_lack_the_weights():
    updating = replace(worker(1, HealthState.STALE), cause="update")
    view = replace(VIEW, workers=(*VIEW.workers, updating), num_moved=0)
    assert (
        fleet_in_words(view)
        == "1 of 4 workers serve, 1 take new weights, 1 dead, 1 stale, 4 restarts"
    )


def test_what_limits_a_step_comes_first():
    figures = {"limit/generation": 0.62, "limit/learner": 0.3, "limit/weights": 0.001}
    assert limits_in_words(figures) == "generation 62%, learner 30%"
    assert limits_in_words({"reward/mean": 1.0}) == ""
