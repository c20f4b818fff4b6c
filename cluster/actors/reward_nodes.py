"""Reward nodes: an actor on each node of the run, which runs the user reward functions there.

    Scorer -> SpreadRunner (reward/plugins/spread.py) -> RewardNode -> RewardActor -> PluginRunner

An actor takes no CPU of Ray's count: the functions run in processes of their own beside it, as they
do beside the driver.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.actors.deadlines import ignore_dead
from cluster.actors.placement import Reservation
from cluster.config.recipe import RunConfig
from reward.plugins.call_figures import CallFigures
from reward.plugins.question import Question
from reward.plugins.runner import PluginRunner, Value
from reward.plugins.shipped import ShippedFunction
from reward.plugins.signature import Signature
from reward.plugins.spread import NodeLost
from wire.errors import ConfigError
from wire.types import Failure

T = TypeVar("T")


class RewardActor:
    """Reward actor: the user reward functions of a run, in killable processes on its node."""

    def __init__(self) -> None:
        self._runners: dict[str, PluginRunner] = {}

    async def load(self, function: ShippedFunction) -> Signature:
        """Load a function in a process. Raises ConfigError if it cannot be loaded here."""
        runner = PluginRunner(function.term_here(), function.columns)
        self._runners[function.term.part] = runner
        await runner.start()
        assert runner.signature is not None, "start() sets it"
        return runner.signature

    async def score(
        self, part: str, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        """Ask the function of that reward part; figures of its calls since the last answer."""
        runner = self._runners[part]
        outcomes = await runner.score(question)
        return outcomes, runner.figures.take()

    async def ping(self) -> None:
        """Return at once."""

    async def stop(self) -> None:
        """End the processes of all functions."""
        for runner in self._runners.values():
            await runner.close()


RemoteRewardActor: Any = ray.remote(RewardActor)


class RewardNode:
    """A node's reward actor, called as plain methods (reward/plugins/spread.py: FunctionNode)."""

    def __init__(self, node: str, address: str) -> None:
        """``node``: Ray's id of it."""
        self.name = f"{address} ({node[:8]})"
        self._actor = RemoteRewardActor.options(
            num_cpus=0,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote()

    async def load(self, function: ShippedFunction) -> Signature:
        """Load a function there. Raises ConfigError, NodeLost."""
        try:
            return await _answer(self._actor.load.remote(function))
        except ConfigError as error:
            raise ConfigError(f"on node {self.name}: {error}") from error

    async def score(
        self, part: str, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        """Ask a function there. Raises NodeLost."""
        return await _answer(self._actor.score.remote(part, question))

    async def ping(self) -> None:
        """Return once the actor responds. Raises NodeLost."""
        await _answer(self._actor.ping.remote())

    async def stop(self) -> None:
        """End the functions' processes, and the actor."""
        await ignore_dead(self._actor.stop.remote())
        ray.kill(self._actor)


@asynccontextmanager
async def reward_nodes(
    config: RunConfig, reservation: Reservation
) -> AsyncIterator[list[RewardNode]]:
    """An actor on each node that holds workers or ranks of the run, during the block; none unless
    the recipe spreads user functions."""
    names = [seat.node for seat in reservation.workers + reservation.ranks]
    nodes = open_nodes(list(dict.fromkeys(names))) if config.reward.is_spread else []
    try:
        yield nodes
    finally:
        await asyncio.gather(*[node.stop() for node in nodes])


def open_nodes(names: list[str]) -> list[RewardNode]:
    """A reward actor on each of these nodes, by Ray's ids."""
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    return [RewardNode(name, addresses[name]) for name in names]


async def _answer(call: Awaitable[T]) -> T:
    """An actor's answer, or the error that the actor raised. Raises NodeLost for what is no
    answer."""
    try:
        return await call
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, ConfigError) else error
        raise cause from None
    except RayError as error:
        raise NodeLost(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
