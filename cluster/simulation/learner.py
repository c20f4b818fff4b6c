"""Scripted learner: a step takes its time, ranks die and are healed, new weights go to the fleet
by the rules of the pool's membership. Implements the loop's ``Learner``."""

import asyncio
import heapq
from collections.abc import Iterator, Sequence

from cluster.loop import StepGroups
from cluster.metrics.timeline import DRIVER, Timeline
from cluster.pool.membership import Membership
from cluster.simulation.faults import times_of
from cluster.simulation.result import Tally
from cluster.simulation.scenario import Scenario
from cluster.simulation.workers import ScriptedFleet
from wire.errors import RankDied, WorkerDied
from wire.types import PolicyVersion

_LOOKS_S = 0.5  # between looks whether engines have finished, or a hanging one is given up


class ScriptedLearner:
    """Trains steps that take as long as the scenario says."""

    def __init__(
        self,
        scenario: Scenario,
        fleet: ScriptedFleet,
        members: Membership,
        tally: Tally,
        timeline: Timeline,
    ) -> None:
        self._scenario, self._fleet, self._members = scenario, fleet, members
        self._tally, self._lengths = tally, scenario.lengths
        self._limits = scenario.limits
        self._since_save_s = 0.0  # of updates that a heal would replay
        self._deaths = _deaths(scenario)
        self._next_death = next(self._deaths, float("inf"))
        self._timeline = timeline
        timeline.begin_steps()
        self._phase = timeline.begin(DRIVER, "gen")
        self._since = asyncio.get_running_loop().time()

    async def train(self, taken: StepGroups, step: int) -> None:
        """Train a step, and publish the version after it. Raises TooManyFailures."""
        self._limits.refuse(taken)
        timings = self._scenario.timings
        traces = self._trained(taken, step)
        self._begin("update_actor")
        await self._update(timings.learner_s_per_step + timings.learner_s_per_trace * traces)
        self._begin("update_weights")
        await self.publish(step)
        if self._scenario.grpo.saves_at(step):
            self._begin("save")
            await asyncio.sleep(timings.save_s)
            self._since_save_s = 0.0
        self._begin("gen")
        self._tally.step_ends.append(asyncio.get_running_loop().time())
        self._timeline.end_step("grpo", step, list(self._members.serving))

    async def publish(self, version: int) -> None:
        """New weights into every engine that runs; each serves once it has them."""
        with self._members.updating(PolicyVersion(attempt=0, step=version)):
            names = self._members.updatable
            if self._scenario.rollout.in_flight == "wait":
                await self._written(names)
            await self._send(names, version)

    async def _written(self, names: Sequence[str]) -> None:
        """Wait until engines that work have written what they have begun."""
        while any(self._fleet.is_busy(name) and not self._fleet.hangs(name) for name in names):
            await asyncio.sleep(_LOOKS_S)

    async def _send(self, names: Sequence[str], version: int) -> None:
        fleet, members, timings = self._fleet, self._members, self._scenario.timings
        fleet.halt(names)
        sending = 8 * timings.weights_gb / timings.network_gbit * self._scenario.weights_sends
        self._tally.network_s += sending
        await asyncio.sleep(sending + timings.load_weights_s)
        fleet.published(version)
        for name in names:
            if fleet.hangs(name):
                members.update_failed(name)
                continue
            try:
                fleet.load(name, version)
            except WorkerDied:
                members.update_failed(name)
            else:
                members.proven(name, PolicyVersion(attempt=0, step=version))

    def _trained(self, taken: StepGroups, step: int) -> int:
        """Number of traces trained; counts them by their lag."""
        tally, number = self._tally, 0
        tally.dropped_groups += sum(group.is_dropped for group in taken.all)
        fresh, num_stale = self._limits.fresh(taken.trained, step - 1)
        tally.dropped_traces += num_stale
        for group in fresh:
            lengths = self._lengths.of(int(group.group_id), len(group.traces))
            for trace, length in zip(group.traces, lengths, strict=True):
                tally.lags[step - 1 - trace.completion.policy_version.step] += 1
                tally.trained_tokens += length
                number += 1
        tally.trained_traces += number
        return number

    async def _update(self, seconds: float) -> None:
        """Work for so long; a rank that dies meanwhile, or died before, costs the work since the
        last checkpoint again."""
        loop, timings = asyncio.get_running_loop(), self._scenario.timings
        while self._next_death <= loop.time() + seconds:
            await asyncio.sleep(max(0.0, self._next_death - loop.time()))
            self._count_death()
            self._next_death = next(self._deaths)
            self._begin("heal")
            await asyncio.sleep(timings.learner_restart_s + self._since_save_s)
            self._begin("update_actor")
        await asyncio.sleep(seconds)
        self._since_save_s += seconds

    def _count_death(self) -> None:
        """Count a rank's death. Raises RankDied if the run would end with it."""
        most, faults = self._scenario.max_learner_restarts, self._tally.faults
        faults["rank_died"] += 1
        if faults["rank_died"] > most:
            raise RankDied(
                f"a learner rank died; learner.max_restarts = {most} are used up; --resume goes on"
            )

    def _begin(self, phase: str) -> None:
        """End the phase that goes on, count its time, and begin another."""
        now = asyncio.get_running_loop().time()
        self._tally.learner_s[self._phase.name] += now - self._since
        self._timeline.end(self._phase)
        self._phase, self._since = self._timeline.begin(DRIVER, phase), now


def _deaths(scenario: Scenario) -> Iterator[float]:
    """Moments at which any rank dies."""
    ranks = [
        times_of(scenario.seed, f"rank-{rank}", scenario.faults.rank_mtbf_s)
        for rank in range(scenario.num_ranks)
    ]
    return heapq.merge(*ranks)
