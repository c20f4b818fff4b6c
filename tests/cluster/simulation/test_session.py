"""Simulated runs: the real loop, buffer and pool on scripted workers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.supervisor import Supervisor
from cluster.simulation.faults import FaultRates, RoomChange
from cluster.simulation.result import SimulatedRun
from cluster.simulation.run import simulate
from tests.cluster.simulation.scenarios import scenario, timed


def test_a_synchronous_step_is_generation_then_update_then_weights():
    run = simulate(scenario())
    # four groups one after another by one worker
    assert run.step_s == pytest.approx(4 * 1.0 + 10.0 + 1.0)
    assert run.num_steps == 6
    assert run.num_traces == 6 * 4 * 2
    assert run.staleness == {0: 1.0}
    assert run.idle_learner == pytest.approx(4 / 15)
    assert run.idle_workers == pytest.approx(11 / 15)


def test_with_a_version_of_lag_generation_hides_behind_the_update():
    run = simulate(scenario(grpo={"max_staleness": 1}, num_steps=40))
    assert run.step_s == pytest.approx(11.0)  # four seconds of generation are in the ten
    assert max(run.staleness) == 1


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_no_trace_is_staler_than_the_recipe_allows(lag: int):
    times = timed(response_length_sigma=1.0, learner_s_per_step=2.0)
    run = simulate(scenario(workers=3, timings=times, grpo={"max_staleness": lag}, num_steps=30))
    assert max(run.staleness) == lag


def test_workers_share_the_groups():
    runs = [simulate(scenario(workers=count)).step_s for count in (1, 2, 4)]
    assert runs == pytest.approx([15.0, 13.0, 12.0])


def test_rewards_archive_and_driver_take_their_time():
    times = timed(reward_s=0.5, archive_s=0.25, driver_s_per_trace=0.1)
    assert simulate(scenario(timings=times)).step_s == pytest.approx(15.0 + 0.5 + 0.25 + 0.2)


def test_weights_go_once_to_each_node_with_engines_beside_the_learners():
    times = timed(weights_gb=12.5, network_gbit=100.0)  # a second a node
    run = simulate(scenario(workers=4, timings=times, workers_per_node=1))
    assert run.step_s == pytest.approx(12.0 + 3.0)
    assert run.busy_network == pytest.approx(3 / 15)
    assert simulate(
        scenario(workers=4, timings=times, workers_per_node=1, transfer="nccl")
    ).step_s == pytest.approx(12.0 + 1.0)


def test_a_checkpoint_takes_its_time_where_one_is_due():
    saves = simulate(scenario(timings=timed(save_s=6.0), grpo={"save_every": 2}))
    assert saves.seconds == pytest.approx(6 * 15.0 + 3 * 6.0)


def test_groups_without_signal_are_replaced():
    plain = simulate(scenario(num_steps=20))
    grpo = {"filter_groups": {"enable": True}}
    filtered = simulate(scenario(timings=timed(no_signal_frac=0.5), grpo=grpo, num_steps=20))
    assert filtered.step_s == pytest.approx(plain.step_s + 4.0, rel=0.3)  # twice the groups


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    faulty = scenario(
        workers=4,
        timings=timed(response_length_sigma=0.5),
        faults=FaultRates(worker_mtbf_s=200.0),
        num_steps=30,
    )
    first, again = simulate(faulty), simulate(faulty)
    assert same(first) == same(again)
    assert same(first) != same(simulate(replace(faulty, seed=1)))


def same(run: SimulatedRun) -> SimulatedRun:
    return replace(run, cpu_ms_per_trace=0.0)


def test_engines_that_die_or_hang_come_back_and_their_groups_are_written_by_others():
    often = FleetHealthConfig(max_restart_attempts=1000, max_restarts_per_hour=1000)
    faults = FaultRates(worker_mtbf_s=150.0, hang_frac=0.5)
    run = simulate(
        scenario(workers=4, faults=faults, num_steps=60, health=often, start_timeout_s=600.0)
    )
    assert not run.ended
    assert run.num_steps == 60
    assert run.num_traces == 60 * 8
    assert run.faults["engine_died"] >= 1
    assert run.faults["engine_hung"] >= 1
    assert run.restarts >= 4
    assert 0.0 < run.lost_frac < 0.5
    assert run.effective_training_time_ratio is not None
    assert 0.3 < run.effective_training_time_ratio < 1.0


def test_a_node_takes_its_workers_with_it_and_gives_them_back():
    run = simulate(
        scenario(
            workers=4,
            workers_per_node=2,
            faults=FaultRates(node_mtbf_s=400.0, node_back_s=50.0),
            num_steps=60,
        )
    )
    assert run.faults["node_died"] > 0
    assert not run.ended
    assert run.mean_serving < 4


def test_workers_join_when_there_is_room_and_leave_when_there_is_not():
    changes = (RoomChange(at_s=30.0, workers=4), RoomChange(at_s=300.0, workers=2))
    calm, slow = FaultRates(), timed(learner_s_per_step=1.0)
    alone = simulate(scenario(timings=slow, num_steps=100, faults=calm))
    elastic = simulate(scenario(timings=slow, num_steps=100, faults=FaultRates(changes=changes)))
    assert elastic.seconds < 0.75 * alone.seconds
    assert elastic.restarts >= 3


def test_a_rank_that_dies_costs_a_restart_and_the_work_since_the_checkpoint():
    saves = {"save_every": 10}
    calm = simulate(scenario(num_steps=60, grpo=saves))
    run = simulate(scenario(num_steps=60, grpo=saves, faults=FaultRates(rank_mtbf_s=300.0)))
    died = run.faults["rank_died"]
    assert died > 0
    assert run.num_steps == 60
    longest = 30.0 + 10 * 10.0 + 10.0
    assert calm.seconds + 30.0 * died < run.seconds < calm.seconds + longest * died
    assert run.learner_shares["heal"] > 0


def test_ranks_that_die_more_often_than_they_may_end_the_run_with_the_rule():
    often = scenario(faults=FaultRates(rank_mtbf_s=1.0), max_learner_restarts=3)
    run = simulate(often)
    assert "learner.max_restarts = 3 are used up" in run.ended
    assert run.faults["rank_died"] == 4


def test_a_fleet_that_never_comes_back_ends_the_run_with_its_reason():
    gone = FaultRates(node_mtbf_s=20.0, node_back_s=1e9)
    run = simulate(scenario(faults=gone, num_steps=50))
    assert run.num_steps < 50
    assert "rollout.min_workers=1" in run.ended
    assert run.effective_training_time_ratio is None


@pytest.mark.parametrize("in_flight", ["wait", "keep", "restart"])
def test_an_update_does_with_traces_in_flight_what_the_recipe_says(in_flight: str):
    # a group takes 10 s, an update 1 s: one group of a worker is always in flight
    times = timed(response_length=1000, learner_s_per_step=1.0)
    run = simulate(
        scenario(
            workers=4,
            timings=times,
            grpo={"max_staleness": 2},
            rollout={"in_flight": in_flight},
            num_steps=20,
        )
    )
    assert (run.lost_frac > 0) == (in_flight == "restart")
    assert (run.halted_workers > 0) == (in_flight != "wait")


def test_steps_leave_timelines_as_those_of_a_run(tmp_path: Path):
    run = simulate(scenario(workers=2, timings=timed(reward_s=0.5), num_steps=3), tmp_path)
    files = sorted((tmp_path / "timeline/grpo").iterdir())
    assert [file.name for file in files] == [f"step-{n:06d}.json" for n in (1, 2, 3)]
    trace = json.loads(files[-1].read_text())
    names = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    assert names >= {"answer", "score", "gen", "update_actor", "update_weights"}
    assert run.step_s == pytest.approx(2 * 1.0 + 0.5 + 10.0 + 1.0)


def test_the_supervisor_of_a_large_fleet_does_not_look_at_all_workers_at_each_change(
    monkeypatch: pytest.MonkeyPatch,
):
    looks, look = [], Supervisor.look

    def counted(self: Supervisor) -> None:
        looks.append(None)
        look(self)

    monkeypatch.setattr(Supervisor, "look", counted)
    times = timed(response_length_sigma=1.0, learner_s_per_step=1.0)
    large = {"groups_per_step": 400}
    run = simulate(scenario(workers=400, timings=times, grpo=large, num_steps=2))
    assert len(looks) < run.seconds / 0.4 + 5
