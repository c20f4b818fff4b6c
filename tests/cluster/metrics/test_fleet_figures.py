import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.metrics.events import Event
from cluster.metrics.fleet_figures import STATES, FleetFigures
from cluster.metrics.step_timelines import StepTimelines, timeline_files
from cluster.pool.worker_health import HealthState
from tests.cluster.pool.scripted_fleet import Pool, ScriptedFleet, settings
from tests.cluster.pool.virtual_time import run_virtually
from wire.strict_json import from_json


class Fleet:
    """Figures, with events at times that a test names."""

    def __init__(self, *before: Event) -> None:
        self.now = 0.0
        self.figures = FleetFigures(before, lambda: self.now)

    def note(self, kind: str, subject: str = "rollout-0", **fields: Any) -> None:
        self.figures.observe(Event(kind=kind, subject=subject, fields=fields, time=self.now))

    def state(self, state: str, subject: str = "rollout-0", **fields: Any) -> None:
        self.note("worker_state", subject, state=state, **fields)


def test_states_are_those_of_the_pool():
    assert tuple(HealthState) == STATES


def test_workers_are_counted_by_state_and_what_happened_by_kind():
    fleet = Fleet()
    fleet.state("healthy", epoch=1)
    fleet.state("healthy", "rollout-1", epoch=2)
    fleet.state("dead", "rollout-1", before="healthy", cause="node_died", epoch=3)
    fleet.note("request_moved")
    fleet.note("request_moved")
    fleet.note("group_dropped", "grpo-7", cause="stale")
    fleet.state("restarting", "rollout-1", before="dead")
    figures = fleet.figures.of_step()
    assert (figures["fleet/serving"], figures["fleet/epoch"]) == (1.0, 3.0)
    assert (figures["fleet/state/restarting"], figures["fleet/state/dead"]) == (1.0, 0.0)
    assert (figures["fleet/num_worker_deaths"], figures["fleet/num_restarts"]) == (1.0, 1.0)
    assert figures["fleet/deaths/node_died"] == 1.0
    assert (figures["fleet/num_moved"], figures["fleet/num_dropped"]) == (2.0, 1.0)


def test_a_worker_that_leaves_is_counted_and_then_gone():
    fleet = Fleet()
    fleet.note("worker_joined", state="restarting", cause="started")
    fleet.note("worker_joined", "rollout-1", state="restarting", cause="joined")
    fleet.state("retired", "rollout-1")
    assert fleet.figures.of_step()["fleet/state/retired"] == 1.0
    fleet.note("worker_left", "rollout-1", cause="scaled_down")
    figures = fleet.figures.of_step()
    assert (figures["fleet/state/retired"], figures["fleet/state/restarting"]) == (0.0, 1.0)
    assert (figures["fleet/num_joined"], figures["fleet/num_left"]) == (1.0, 1.0)


def test_figures_and_spans_are_those_of_the_pool(tmp_path: Path):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeline = StepTimelines(tmp_path, 0, clock=loop.time)
        figures = FleetFigures((), loop.time)
        async with Pool(ScriptedFleet(), settings(2), timeline) as pool:
            pool.events.observers.append(figures.observe)
            await pool.update(1)
            figures.begin_steps()
            timeline.begin_steps()
            asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(6)]
            await asyncio.sleep(0.5)
            pool.fleet.kill("rollout-1")
            await asyncio.gather(*asked)
            await asyncio.sleep(20)
            found = figures.of_step()
            shares = timeline.end_step("grpo", 1, [worker.name for worker in pool.members.workers])
        timeline.close()
        assert found["fleet/serving"] == found["fleet/state/healthy"] == 1.0  # of who was noted
        assert found["fleet/num_moved"] == 3.0
        assert found["fleet/num_worker_deaths"] == found["fleet/num_restarts"] == 1.0
        assert found["fleet/epoch"] == pool.members.epoch
        assert 0.5 < shares["rollouter/idle_ratio"] < shares["rollouter/idle_ratio_max"] < 1
        (path,) = timeline_files(tmp_path, "grpo")
        spans = [e for e in from_json(path.read_bytes())["traceEvents"] if e["ph"] == "X"]
        assert Counter(e["name"] for e in spans) == {"answer": 9, "wait for a worker": 9}
        assert sum("fault" in e["args"] for e in spans) == 3

    run_virtually(main())


def test_counts_go_on_over_a_resume_and_states_begin_anew():
    before = Event(
        kind="worker_state", subject="rollout-0", fields={"state": "dead", "cause": "probe_failed"}
    )
    moved = Event(kind="request_moved", subject="rollout-0", fields={"epoch": 9})
    figures = Fleet(before, moved).figures.of_step()
    counts = {"fleet/num_moved", "fleet/num_worker_deaths", "fleet/deaths/probe_failed"}
    assert figures == {"fleet/lost_s": 0.0, **dict.fromkeys(counts, 1.0)}


def test_time_is_lost_while_failures_leave_nobody_serving_and_during_a_heal():
    fleet = Fleet()
    fleet.state("healthy")
    fleet.state("healthy", "rollout-1")
    fleet.now = 10.0
    fleet.state("dead")
    fleet.now = 12.0
    fleet.state("suspect", "rollout-1")
    fleet.now = 15.0
    fleet.state("healthy", "rollout-1")
    fleet.now = 20.0
    fleet.note("learner_died", "rank-0")
    fleet.now = 21.0
    fleet.state("dead", "rollout-1")  # both at the same time are lost once
    fleet.now = 24.0
    fleet.note("learner_healed", "rank-0")
    fleet.now = 26.0
    fleet.state("healthy", "rollout-1")
    fleet.now = 30.0
    assert fleet.figures.of_step()["fleet/lost_s"] == 3.0 + 6.0
    assert fleet.figures.of_step()["fleet/lost_s"] == 0.0


def test_engines_that_take_new_weights_lose_no_time():
    fleet = Fleet()
    fleet.state("stale")
    fleet.now = 3.0
    fleet.state("healthy")
    assert fleet.figures.of_step()["fleet/lost_s"] == 0.0
