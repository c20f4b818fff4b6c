from pathlib import Path

import pytest

from cluster.report.curves import read_curves
from cluster.report.fleet import LAST_STEPS, MAX_EVENTS, FleetRecord, fleet_record
from cluster.run_dir import RunDir
from tests.cluster.report.builders import write_metrics
from tests.cluster.report.fleet_run import write_fleet_run
from tests.cluster.study.study_runs import make_run


def record_of(run: RunDir) -> FleetRecord | None:
    return fleet_record(run.path, read_curves(run.path / "metrics.jsonl"))


def test_a_stages_limits_are_means_of_its_last_steps(tmp_path: Path):
    run = make_run(tmp_path)
    write_metrics(run, "coldstart", range(5), nll=1.0)
    write_metrics(run, "grpo", range(40), **{"limit/generation": lambda step: float(step >= 20)})
    write_metrics(run, "grpo", range(40, 41), **{"limit/learner": 1.0})
    record = record_of(run)
    assert record is not None
    (facts,) = record.limits
    assert (facts.stage, facts.steps) == ("grpo", LAST_STEPS)
    assert facts.shares["generation"] == 1.0
    assert facts.effective is None


def test_a_worker_has_a_life_of_spells_and_an_idle_share(tmp_path: Path):
    run = make_run(tmp_path)
    write_fleet_run(run)
    record = record_of(run)
    assert record is not None
    first, second, third = record.workers
    assert (first.idle, second.idle, third.idle) == (pytest.approx(1 / 3), 1.0, None)
    assert [(one.state, one.start, one.end) for one in second.spells] == [
        ("restarting", 0.0, 2.0),
        ("healthy", 2.0, 8.0),
        ("dead", 8.0, 9.0),
        ("restarting", 9.0, 12.0),
        ("healthy", 12.0, 20.0),
    ]
    assert (second.restarts, second.version, second.node) == (1, "0.20", "node-a")
    assert (third.state, third.spells[-1].end) == ("left", 19.0)
    assert record.limits[0].effective == 0.9
    assert record.ranks == pytest.approx({"rank-0": 8 / 9, "rank-1": 7 / 9})


def test_moved_requests_are_counted_and_not_listed(tmp_path: Path):
    run = make_run(tmp_path)
    write_fleet_run(run)
    record = record_of(run)
    assert record is not None
    assert record.counts["request_moved"] == 1
    assert len(record.events) == 12 <= MAX_EVENTS
    assert record.events[4][1] == "rollout-1 is dead (engine_died)"


def test_lives_are_those_of_the_newest_attempt(tmp_path: Path):
    run = make_run(tmp_path)
    write_fleet_run(run)
    with (run.path / "events.jsonl").open("a") as file:
        file.write(
            '{"time": 1.7e9, "attempt": 1, "kind": "worker_joined", "subject": "rollout-0", '
            '"state": "restarting", "cause": "started"}\n'
        )
    record = record_of(run)
    assert record is not None
    assert record.attempt == 1
    assert [len(worker.spells) for worker in record.workers] == [1, 0]  # of the view, the second


def test_a_run_of_an_earlier_version_has_no_such_part(tmp_path: Path):
    run = make_run(tmp_path)
    write_metrics(run, "grpo", range(3), **{"reward/mean": 1.0})
    assert record_of(run) is None
