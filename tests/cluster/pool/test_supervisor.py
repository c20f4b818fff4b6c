import asyncio

from cluster.pool.worker_health import Cause
from tests.cluster.pool.scripted_fleet import Pool, ScriptedFleet, settings
from tests.cluster.pool.virtual_time import run_virtually


def test_a_killed_worker_is_dead_at_the_next_probe_and_serves_again_with_the_newest_weights():
    async def main() -> None:
        async with Pool(ScriptedFleet(), settings(2)) as pool:
            await pool.update(1)
            pool.fleet.kill("rollout-1")
            await asyncio.sleep(6.5)
            assert pool.state("rollout-1") != "healthy"
            await asyncio.sleep(20)
            assert pool.state("rollout-1") == "healthy"
            states = pool.events.states("rollout-1")
            assert states[-4:] == ["dead", "restarting", "stale", "healthy"]
            answers = await asyncio.gather(*[pool.ask() for _ in range(6)])
            assert set(answers) == {"rollout-0 0.1", "rollout-1 0.1"}

    run_virtually(main())


def test_requests_of_a_worker_that_dies_are_answered_by_another():
    async def main() -> None:
        async with Pool(ScriptedFleet(), settings(2)) as pool:
            asked = [asyncio.create_task(pool.ask(f"clip {i}")) for i in range(6)]
            await asyncio.sleep(0.5)
            pool.fleet.kill("rollout-0", Cause.NODE_DIED)
            assert set(await asyncio.gather(*asked)) == {"rollout-1 0.0"}
            assert len(pool.events.of("request_moved")) == 3

    run_virtually(main())
