"""The pool and its fleet, on actors in this process; tests on a real Ray: test_ray_fleet.py."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from cluster.actors.rollout_pool import RolloutPool
from cluster.metrics.events import EventLog, read_events
from cluster.pool.desired_workers import ask_for_workers
from cluster.pool.worker_view import read_fleet
from tests.cluster.actors.pool_here import FIRST, SAMPLE, SAMPLING, Cluster, ScriptedActor
from tests.cluster.config.test_node_layout import config_of
from wire.errors import GenerationError, PlacementError, WorkerDied
from wire.types import PolicyVersion

SECOND = PolicyVersion(attempt=1, step=1)


class Weights:
    """Brings the second version to whoever asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def catch_up(self, name: str) -> PolicyVersion:
        self.asked.append(name)
        return SECOND


def make_pool(cluster: Cluster, run_dir: Path, workers: int = 2, **rollout: Any) -> RolloutPool:
    config = config_of(workers, 1, 1, 1, **rollout)
    health = {"probe_interval_s": 0.05, "probe_timeout_s": 0.2, "backoff_base_s": 0.0}
    config = config.model_copy(
        update={"fleet_health": config.fleet_health.model_copy(update=health)}
    )
    return RolloutPool(config, cluster.seats(workers), events=EventLog(run_dir, 1), run_dir=run_dir)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def states(run_dir: Path, name: str) -> list[tuple[str, str]]:
    events = [e for e in read_events(run_dir) if e.subject == name and "state" in e.fields]
    return [(e.fields["state"], e.fields["cause"]) for e in events]


def publish(pool: RolloutPool, weights: Weights) -> None:
    pool.use_weights_of(weights)
    with pool.updating(SECOND):
        assert not pool.in_service
        for name in pool.names:
            pool.proven(name, SECOND)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def test_a_killed_actor_is_started_anew_with_what_all_were_told_and_the_newest_weights(
    cluster: Cluster, tmp_path: Path
):
    pool, weights = make_pool(cluster, tmp_path), Weights()
    await pool.start("model", FIRST)
    await pool.use_tokens("narration")  # type: ignore[arg-type]
    await pool.use_tower("tower")
    publish(pool, weights)
    cluster.of("rollout-0").scripted.go.clear()
    asked = [asyncio.create_task(pool.answer(SAMPLE, SAMPLING)) for _ in range(6)]
    await until(lambda: cluster.of("rollout-0").scripted.asked == 3)
    cluster.of("rollout-0").die()
    await asyncio.wait_for(asyncio.gather(*asked), 20)
    assert cluster.of("rollout-1").scripted.asked >= 6 - 3, "others answered what it had"
    await until(lambda: pool.in_service == {"rollout-0", "rollout-1"})
    assert states(tmp_path, "rollout-0")[-4:] == [
        ("dead", "actor_died"),
        ("restarting", "restart"),
        ("stale", "started"),
        ("healthy", "weights_proven"),
    ]
    assert weights.asked == ["rollout-0"], "alone"
    assert cluster.of("rollout-0").scripted.told == ["start 1", "narration", "tower"]
    view = read_fleet(tmp_path)
    assert view is not None
    assert [(w.name, w.restarts, w.version, w.pid) for w in view.workers] == [
        ("rollout-0", 1, "1.1", 4711),
        ("rollout-1", 0, "1.1", 4711),
    ]
    await pool.stop()
    assert cluster.of("rollout-1").scripted.told[-1] == "stop"


async def test_before_any_update_a_restarted_worker_serves_what_it_started_with(
    cluster: Cluster, tmp_path: Path
):
    pool = make_pool(cluster, tmp_path, 1)
    pool.use_weights_of(Weights())  # connected, and nothing was sent yet
    await pool.start("model", FIRST)
    cluster.of("rollout-0").die()
    answer = await asyncio.wait_for(pool.answer(SAMPLE, SAMPLING), 20)
    assert answer.policy_version == FIRST
    assert len(cluster.actors["rollout-0"]) == 2
    await pool.stop()


async def test_an_engine_that_hangs_while_its_actor_answers_is_ended_and_started_anew(
    cluster: Cluster, tmp_path: Path
):
    pool = make_pool(cluster, tmp_path, 1)
    await pool.start("model", FIRST)
    hung = cluster.of("rollout-0")
    hung.scripted.works.clear()
    await until(lambda: len(cluster.actors["rollout-0"]) == 2 and bool(pool.in_service))
    assert ("suspect", "probe_failed") in states(tmp_path, "rollout-0")
    assert ("dead", "probe_failed") in states(tmp_path, "rollout-0")
    assert hung.scripted.told[-1] == "end_processes", "or it would keep its GPU's memory"
    assert hung in cluster.killed
    await pool.stop()


async def test_an_engine_whose_process_ended_and_a_node_that_died_are_told_apart(
    cluster: Cluster, tmp_path: Path
):
    pool = make_pool(cluster, tmp_path)
    await pool.start("model", FIRST)
    cluster.of("rollout-0").scripted.is_engine_alive = False
    await until(lambda: len(cluster.actors["rollout-0"]) == 2 and len(pool.in_service) == 2)
    assert ("dead", "engine_died") in states(tmp_path, "rollout-0")
    cluster.nodes.discard("n0")
    cluster.room = 2
    cluster.of("rollout-1").die()
    await until(lambda: len(cluster.actors["rollout-1"]) == 2 and len(pool.in_service) == 2)
    assert ("dead", "node_died") in states(tmp_path, "rollout-1")
    view = read_fleet(tmp_path)
    assert view is not None
    assert {worker.node for worker in view.workers} == {"n1"}
    await pool.stop()


async def test_a_worker_that_is_out_of_reach_for_a_moment_goes_on_and_is_not_started_anew(
    cluster: Cluster, tmp_path: Path
):
    pool = make_pool(cluster, tmp_path)
    await pool.start("model", FIRST)
    cluster.of("rollout-0").out_of_reach = True
    asked = [asyncio.create_task(pool.answer(SAMPLE, SAMPLING)) for _ in range(4)]
    await until(lambda: states(tmp_path, "rollout-0")[-1][0] == "suspect")
    cluster.of("rollout-0").out_of_reach = False
    await asyncio.wait_for(asyncio.gather(*asked), 20)
    await until(lambda: len(pool.in_service) == 2)
    assert states(tmp_path, "rollout-0")[-1] == ("healthy", "probe_answered")
    assert len(cluster.actors["rollout-0"]) == 1
    await pool.stop()


async def test_an_answer_that_is_lost_with_the_memory_of_its_node_is_asked_for_again(
    cluster: Cluster, tmp_path: Path
):
    class Losing(ScriptedActor):
        async def answer(self, *values: Any) -> Any:
            answer = await super().answer(*values)
            if self.asked == 1:
                raise ObjectLostError("00ff", None, "")
            return answer

    cluster.make = Losing
    pool = make_pool(cluster, tmp_path, 1)
    await pool.start("model", FIRST)
    answer = await asyncio.wait_for(pool.answer(SAMPLE, SAMPLING), 20)
    assert answer.policy_version == FIRST
    assert ("suspect", "request_failed") in states(tmp_path, "rollout-0")
    assert len(cluster.actors["rollout-0"]) == 1, "its probe was answered"
    await pool.stop()


async def test_counts_of_a_worker_that_is_out_of_reach_or_was_restarted_are_kept_and_counted_once(
    cluster: Cluster, tmp_path: Path
):
    pool = make_pool(cluster, tmp_path)
    await pool.start("model", FIRST)
    assert await pool.cache_counts() == {"clip_hits": 10 + 10}
    cluster.of("rollout-0").out_of_reach = True
    assert await pool.cache_counts() == {"clip_hits": 10 + 20}
    cluster.of("rollout-0").out_of_reach = False
    assert await pool.cache_counts() == {"clip_hits": 20 + 30}
    cluster.of("rollout-0").die()
    await until(lambda: len(cluster.actors["rollout-0"]) == 2 and len(pool.in_service) == 2)
    assert await pool.cache_counts() == {"clip_hits": 20 + 10 + 40}
    await pool.stop()


async def test_scale_up_uses_the_room_there_is_and_scale_down_lets_a_worker_finish(
    cluster: Cluster, tmp_path: Path
):
    cluster.room = 1
    ask_for_workers(tmp_path, 2)
    pool = make_pool(cluster, tmp_path, 2, min_workers=1, max_workers=4)
    await pool.start("model", FIRST)
    ask_for_workers(tmp_path, 4)
    await until(lambda: len(pool.in_service) == 3)
    assert cluster.asked_autoscaler[-1] == 4 + 1, "and a rank"
    cluster.room = 5
    await until(lambda: len(pool.in_service) == 4)
    for actors in cluster.actors.values():
        actors[-1].scripted.go.clear()
    asked = [asyncio.create_task(pool.answer(SAMPLE, SAMPLING)) for _ in range(8)]
    await asyncio.sleep(0.05)
    ask_for_workers(tmp_path, 1)
    await until(lambda: len(pool.in_service) == 1)
    for actors in cluster.actors.values():
        actors[-1].scripted.go.set()
    await asyncio.wait_for(asyncio.gather(*asked), 20)
    await until(lambda: [e.kind for e in read_events(tmp_path)].count("worker_left") == 3)
    assert len(cluster.killed) == len(cluster.released) == 3
    await pool.stop()
    assert cluster.asked_autoscaler[-1] == 0, "or its nodes would be kept for ever"
    assert len(cluster.released) == 4


async def test_a_node_that_does_not_see_the_runs_files_is_left_out(
    cluster: Cluster, tmp_path: Path
):
    async def admit(seat: Any) -> None:
        looked.append(seat.node)
        if seat.node == "n1":
            raise PlacementError("node n1 does not see the run directory")

    looked: list[str] = []
    cluster.room = 2
    config = config_of(1, 1, 1, 1, max_workers=2)
    pool = RolloutPool(config, cluster.seats(1), admit=admit)
    await pool.start("model", FIRST)
    await until(lambda: bool(cluster.released))
    cluster.new_node = "n2"
    await until(lambda: len(pool.in_service) == 2)
    assert looked == ["n1", "n2"]
    await pool.stop()


async def test_a_worker_that_cannot_start_is_named_and_ends_the_start(
    cluster: Cluster, tmp_path: Path
):
    class Broken(ScriptedActor):
        async def start(self, *values: Any) -> int:
            raise WorkerDied("no memory for the engine")

    cluster.make = Broken
    pool = make_pool(cluster, tmp_path)
    with pytest.raises(WorkerDied, match="no memory for the engine"):
        await pool.start("model", FIRST)
    await pool.stop()


async def test_a_run_whose_workers_all_fail_for_good_ends_with_one_clear_error(
    cluster: Cluster, tmp_path: Path
):
    config = config_of(1, 1, 1, 1)
    health = config.fleet_health.model_copy(update={"max_restart_attempts": 0})
    config = config.model_copy(update={"fleet_health": health})
    pool = RolloutPool(config, cluster.seats(1))
    await pool.start("model", FIRST)
    cluster.of("rollout-0").die()
    with pytest.raises(GenerationError, match=r"rollout workers.*--resume goes on"):
        await asyncio.wait_for(pool.answer(SAMPLE, SAMPLING), 20)
    with pytest.raises(GenerationError):
        await asyncio.wait_for(pool.some_running(), 20)
    await pool.stop()


async def test_an_update_waits_until_a_dead_worker_runs_again(cluster: Cluster, tmp_path: Path):
    pool = make_pool(cluster, tmp_path, 1)
    await pool.start("model", FIRST)
    cluster.of("rollout-0").die()
    assert await pool.find_alive(["rollout-0"]) == []
    assert pool.names == []
    await asyncio.wait_for(pool.some_running(), 20)
    assert pool.names == ["rollout-0"]
    await pool.stop()
