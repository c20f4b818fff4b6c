"""Anything happens to a whole pool, on virtual time; afterwards all is as it should be."""

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cluster.config.fleet import FleetHealthConfig, RolloutFailureConfig
from cluster.pool.dispatch import RequestFailed
from cluster.pool.settings import PoolSettings
from cluster.pool.worker_health import Cause, Change, HealthState
from tests.cluster.pool.scripted_fleet import Pool, ScriptedFleet, version
from tests.cluster.pool.virtual_time import run_virtually

LIMITS = FleetHealthConfig(
    probe_interval_s=5, probe_timeout_s=3, max_restart_attempts=40, max_restarts_per_hour=500
)
SETTINGS = PoolSettings(
    num_workers=3,
    min_workers=1,
    max_workers=5,
    start_with=1,
    default_workers=4,
    max_concurrency=2,
    health=LIMITS,
    failure=RolloutFailureConfig(max_infra_attempts=4),
    start_timeout_s=10_000,
    update_timeout_s=30,
)
WORKER_FAULTS = ["kill", "lose node", "hang", "wake", "fail requests"]
POOL_FAULTS = ["update", "adapter", "scale", "take room", "give room", "starts fail", "no copy"]
FAULTS = st.tuples(
    st.sampled_from(WORKER_FAULTS + POOL_FAULTS), st.integers(0, 5), st.floats(0, 25)
)


class Chaos:
    """A pool that is asked all the time while things happen to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.fleet, self.step = pool, pool.fleet, 0
        self.asked: list[asyncio.Task[str]] = []
        self.epochs = [pool.members.epoch]
        pool.members.listen(self.look)

    def look(self, change: Change) -> None:
        """What holds at each change."""
        members = self.pool.members
        assert members.epoch >= self.epochs[-1]
        self.epochs.append(members.epoch)
        if change.state.serves:
            assert change.version in members._may_serve
            assert change.name in self.fleet.engines
        assert len(members.staying) <= SETTINGS.max_workers

    async def ask_on(self) -> None:
        while True:
            asked = self.pool.ask(f"clip {len(self.asked)}")
            self.asked.append(asyncio.create_task(asked))
            await asyncio.sleep(1.3)

    async def happen(self, kind: str, which: int) -> None:
        fleet, engines = self.fleet, sorted(self.fleet.engines)
        match kind:
            case "update" | "adapter":
                self.step += 1
                await self.pool.update(self.step, others_serve=kind == "adapter")
            case "scale":
                self.pool.asked = which
            case "take room":
                fleet.free = 0
            case "give room":
                fleet.free += which
            case "starts fail":
                fleet.start_fails = which < 3
            case "no copy":
                fleet.newest = None if which < 2 else version(self.step)
            case _ if engines:
                self.befall(kind, engines[which % len(engines)])

    def befall(self, kind: str, name: str) -> None:
        engine = self.fleet.engines[name]
        match kind:
            case "kill":
                self.fleet.kill(name)
            case "lose node":
                self.fleet.kill(name, Cause.NODE_DIED)
            case "hang":
                engine.hangs = True
            case "wake":
                engine.hangs = False
            case "fail requests":
                engine.fails = not engine.fails

    def heal(self) -> None:
        """End all faults."""
        self.fleet.free, self.fleet.start_fails = 20, False
        self.fleet.newest = version(self.step)
        self.pool.asked = 4
        for engine in self.fleet.engines.values():
            engine.fails = False


async def happen_to_a_pool(faults: list[tuple[str, int, float]]) -> Chaos:
    async with Pool(ScriptedFleet(), SETTINGS) as pool:
        chaos = Chaos(pool)
        asking = asyncio.create_task(chaos.ask_on())
        for kind, which, seconds in faults:
            await asyncio.sleep(seconds)
            await chaos.happen(kind, which)
        chaos.heal()
        await asyncio.sleep(200)
        await chaos.happen("update", 0)  # without a copy, weights come by it alone
        await asyncio.sleep(100)
        asking.cancel()
        ends: list[Any] = await asyncio.gather(*chaos.asked, return_exceptions=True)
        for end in ends:
            assert isinstance(end, (str, RequestFailed)), f"neither answered nor typed: {end!r}"
        assert all(isinstance(end, str) for end in ends[-50:]), "the healed pool answers all"
        staying = pool.members.staying
        assert [worker.state for worker in staying] == [HealthState.HEALTHY] * 4
        assert {worker.version for worker in staying} == {version(chaos.step)}
        assert not any(pool.dispatcher.busy(worker.name) for worker in staying)
        assert len(pool.members) == 4, "who left is gone"
        assert set(pool.fleet.engines) == {worker.name for worker in staying}, "and no engine more"
        return chaos


@examples(max_examples=10, deadline=None)
@given(st.lists(FAULTS, max_size=40))
def test_whatever_happens_to_a_pool_it_heals_and_every_request_ends(
    faults: list[tuple[str, int, float]],
):
    run_virtually(happen_to_a_pool(faults))


def test_the_same_faults_have_the_same_events():
    """Nothing in the rules depends on chance, or on the machine's speed."""
    faults = [("kill", 0, 3.0), ("update", 0, 7.0), ("lose node", 1, 2.0), ("hang", 2, 11.0)]

    def events() -> Counter[tuple[str, str, float, str]]:
        noted = run_virtually(happen_to_a_pool(faults)).pool.events.all
        return Counter((e.kind, e.subject, e.time, str(e.fields)) for e in noted)

    assert events() == events()
