"""Session of a simulated run: the real loop, buffer and pool on scripted workers.

rollout_loop, train_loop, GroupBuffer            cluster/loop.py, cluster/buffer.py
Membership, Dispatcher, Supervisor               cluster/pool
ScriptedFleet, ScriptedWriter, ScriptedLearner   here: they only take their time
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.buffer import GroupBuffer
from cluster.loop import rollout_loop, run_until_trained, train_loop
from cluster.metrics.events import NoEvents
from cluster.metrics.step_timelines import StepTimelines
from cluster.metrics.timeline import NoTimeline, Timeline
from cluster.pool.clock import LoopClock
from cluster.pool.dispatch import Dispatcher
from cluster.pool.membership import Membership
from cluster.pool.settings import PoolSettings
from cluster.pool.supervisor import Supervisor
from cluster.simulation.faults import times_of
from cluster.simulation.learner import ScriptedLearner
from cluster.simulation.resources import Serial
from cluster.simulation.result import SimulatedRun, Tally
from cluster.simulation.scenario import Scenario
from cluster.simulation.workers import ScriptedFleet
from cluster.simulation.writer import SAMPLE, ScriptedWriter
from cluster.stages.grpo.step_limits import replacing_of
from wire.errors import DeepIntuitError, root_causes
from wire.types import PolicyVersion, stable_seed

_POOL_LOG = logging.getLogger("cluster.pool")


class SimulatedSession:
    """Runs a scenario once, on the running loop."""

    def __init__(self, scenario: Scenario, folder: Path | None = None) -> None:
        """``folder``: where a timeline of each step is written, as of a real run."""
        self._scenario, grpo = scenario, scenario.grpo
        settings, clock, events = _settings(scenario), LoopClock(), NoEvents()
        self._begin = self._placed_before_s = 0.0
        self._starts = 0
        self._tally, self._driver = Tally(), Serial()
        self._members = Membership(scenario.health, clock)
        self._timeline: Timeline = NoTimeline()
        if folder is not None:
            now = asyncio.get_running_loop().time
            self._timeline = StepTimelines(folder, 0, clock=now, waits=True)
        dispatcher = Dispatcher(self._members, settings, clock, events, self._timeline)
        self._fleet = ScriptedFleet(scenario, version=0)
        self._supervisor = Supervisor(
            self._members, dispatcher, self._fleet, settings, clock, events
        )
        self._writer = ScriptedWriter(
            scenario, self._fleet, dispatcher, self._driver, self._timeline
        )
        capacity = (grpo.max_staleness + 1) * grpo.groups_per_step
        self._buffer = GroupBuffer(capacity, 0, scenario.num_steps * grpo.groups_per_step)
        self._serving_s = 0.0
        self._serving = (0, 0.0)  # how many serve, and since when
        self._members.listen(lambda change: self._count_serving())

    async def run(self) -> SimulatedRun:
        """Run all steps, or until the fleet ends the run."""
        loop = asyncio.get_running_loop()
        self._members.trust(PolicyVersion(attempt=0, step=0))
        with _quiet():
            await self._supervisor.start()
            self._begin = loop.time()
            self._serving_s = 0.0
            self._starts, self._placed_before_s = self._fleet.num_starts, self._fleet.placed_s
            learner = ScriptedLearner(
                self._scenario, self._fleet, self._members, self._tally, self._timeline
            )
            tasks = [asyncio.ensure_future(one) for one in (*self._faults(), self._changes())]
            try:
                ended = await self._train(learner)
            finally:
                for task in tasks:
                    task.cancel()
                await self._supervisor.stop()
        return self._result(ended)

    async def _train(self, learner: ScriptedLearner) -> str:
        """Run the loops. Returns why they ended early; empty: they did not."""
        grpo, buffer = self._scenario.grpo, self._buffer
        replacing = replacing_of(grpo, self._scenario.failure)
        steps = range(1, self._scenario.num_steps + 1)
        train = train_loop(buffer, learner, steps, grpo.groups_per_step, replacing)
        loops = [
            rollout_loop(lambda place: SAMPLE, self._writer, buffer) for _ in range(buffer.capacity)
        ]
        try:
            await run_until_trained(train, [self._supervisor.run(), *loops])
        except ExceptionGroup as group:
            causes = root_causes(group)
            if not all(isinstance(cause, DeepIntuitError) for cause in causes):
                raise
            return str(causes[0])
        return ""

    def _faults(self) -> Iterator[Awaitable[None]]:
        """A task for each slot and node that may fail."""
        scenario, rates = self._scenario, self._scenario.faults
        if rates.worker_mtbf_s is not None:
            for slot in range(scenario.most_workers):
                yield self._fail_slot(slot)
        if rates.node_mtbf_s is not None:
            for node in range(-(-scenario.most_workers // scenario.workers_per_node)):
                yield self._fail_node(node)

    async def _fail_slot(self, slot: int) -> None:
        rates, seed = self._scenario.faults, self._scenario.seed
        draw = random.Random(stable_seed("hangs", seed, slot))
        for moment in times_of(seed, f"slot-{slot}", rates.worker_mtbf_s):
            await self._until(moment)
            hang = draw.random() < rates.hang_frac
            if self._fleet.fail_slot(slot, hang=hang):
                self._tally.faults["engine_hung" if hang else "engine_died"] += 1

    async def _fail_node(self, node: int) -> None:
        rates = self._scenario.faults
        for moment in times_of(self._scenario.seed, f"node-{node}", rates.node_mtbf_s):
            await self._until(moment)
            if self._fleet.node_down(node):
                self._tally.faults["node_died"] += 1
                await asyncio.sleep(rates.node_back_s)
                self._fleet.node_up(node)

    async def _changes(self) -> None:
        """Change the room for workers when its time comes."""
        for change in sorted(self._scenario.faults.changes, key=lambda change: change.at_s):
            await self._until(change.at_s)
            self._fleet.set_room(change.workers)

    async def _until(self, moment: float) -> None:
        """Wait until so many seconds after the start of the training."""
        await asyncio.sleep(max(0.0, self._begin + moment - asyncio.get_running_loop().time()))

    def _count_serving(self) -> None:
        now = asyncio.get_running_loop().time()
        count, since = self._serving
        self._serving_s += count * (now - since)
        self._serving = (len(self._members.serving), now)

    def _result(self, ended: str) -> SimulatedRun:
        self._count_serving()
        tally, engines, ends = self._tally, self._fleet.engines, self._tally.step_ends
        seconds = (ends[-1] if ends else asyncio.get_running_loop().time()) - self._begin
        of_steps = seconds / max(1, len(ends))
        if len(ends) > 1:
            of_steps = (ends[-1] - ends[0]) / (len(ends) - 1)
        learner_s = sum(tally.learner_s.values())
        shares = {part: s / max(learner_s, 1e-9) for part, s in tally.learner_s.items() if s}
        placed_s = max(self._fleet.placed_s - self._placed_before_s, 1e-9)
        traces_per_step = tally.trained_traces / max(1, len(ends))
        decoded = sum(engine.num_tokens for engine in engines)
        busy_s = sum(engine.busy_s for engine in engines)
        return SimulatedRun(
            workers=self._scenario.workers,
            num_steps=len(ends),
            num_traces=tally.trained_traces,
            seconds=seconds,
            step_s=of_steps,
            steps_per_hour=3600 / max(of_steps, 1e-9),
            traces_per_s=traces_per_step / max(of_steps, 1e-9),
            tokens_per_s=tally.trained_tokens / max(1, len(ends)) / max(of_steps, 1e-9),
            learner_shares=shares,
            idle_workers=1 - busy_s / placed_s,
            halted_workers=sum(engine.halted_s for engine in engines) / placed_s,
            idle_learner=shares.get("gen", 0.0),
            busy_driver=self._driver.busy_s / max(seconds, 1e-9),
            busy_network=tally.network_s / max(seconds, 1e-9),
            staleness={
                lag: count / max(1, tally.trained_traces)
                for lag, count in sorted(tally.lags.items())
            },
            lost_frac=sum(engine.lost_tokens for engine in engines) / max(decoded, 1e-9),
            dropped_traces=tally.dropped_traces,
            dropped_groups=tally.dropped_groups,
            mean_serving=self._serving_s / max(seconds, 1e-9),
            faults=dict(tally.faults),
            restarts=self._fleet.num_starts - self._starts,
            cpu_ms_per_trace=0.0,
            ended=ended,
        )


def _settings(scenario: Scenario) -> PoolSettings:
    rollout = scenario.rollout
    return PoolSettings(
        num_workers=rollout.num_workers,
        min_workers=rollout.min_workers or 1,
        max_workers=scenario.most_workers,
        start_with=rollout.num_workers,
        default_workers=scenario.most_workers,
        max_concurrency=rollout.max_concurrency,
        health=scenario.health,
        failure=scenario.failure,
        start_timeout_s=scenario.start_timeout_s,
        update_timeout_s=rollout.update_timeout_s,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of the pool in the block: they are of workers that are none."""
    before = _POOL_LOG.level
    _POOL_LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _POOL_LOG.setLevel(before)
