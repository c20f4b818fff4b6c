import asyncio
import time
from pathlib import Path

import pytest

from cluster.pool.clock import LoopClock
from cluster.pool.fleet_view import fleet_view
from cluster.pool.worker_view import read_fleet, write_fleet
from tests.cluster.pool.scripted_fleet import Pool, ScriptedFleet, settings
from tests.cluster.pool.virtual_time import run_virtually


def test_the_view_says_apart_who_is_alive_who_is_current_and_who_serves(tmp_path: Path):
    async def main() -> None:
        async with Pool(ScriptedFleet(), settings(3)) as pool:
            await pool.update(1)
            pool.fleet.newest = None
            pool.fleet.kill("rollout-2")
            await asyncio.sleep(25)
            pool.fleet.engines["rollout-1"].hangs = True
            pool.members["rollout-1"].probe_failed()
            task = asyncio.create_task(pool.ask())
            await asyncio.sleep(0.5)
            supervisor = pool.supervisor
            view = fleet_view(
                *(pool.members, pool.dispatcher, LoopClock(), pool.settings),
                desired=supervisor.desired,
                attempt=4,
            )
            write_fleet(tmp_path, view)
            await task

    run_virtually(main())
    view = read_fleet(tmp_path)
    assert view is not None
    conditions = {
        worker.name: [condition.type for condition in worker.conditions if condition.status]
        for worker in view.workers
    }
    assert conditions == {
        "rollout-0": ["Alive", "WeightsCurrent", "Serving"],
        "rollout-1": ["Alive", "WeightsCurrent"],
        "rollout-2": ["Alive"],
    }
    assert (view.desired, view.version, view.attempt, view.max_workers) == (3, "0.1", 4, 3)
    busy, _, restarted = view.workers
    assert (busy.num_requests, busy.version) == (1, "0.1")
    assert busy.busy_s == pytest.approx(0.5)
    assert (restarted.restarts, restarted.version, restarted.node) == (1, None, "node-0")
    assert time.time() - 60 < restarted.since <= time.time(), "Unix time"
