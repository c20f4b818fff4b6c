"""Turns on GPUs that engines and learner share: while one side works, the other holds little.

    engines asleep -> updates -> optimiser offloaded -> publish: weights, then KV cache -> served

An engine wakes by the update itself (rollout/vllm_engine.py), so whoever publishes wakes it.
"""

from typing import Protocol

from cluster.config.recipe import RunConfig
from cluster.driver.progress import console


class Sleeping(Protocol):
    """Engines that can sleep; cluster/actors/rollout_pool.py implements it."""

    async def sleep(self) -> None:
        """Put every engine to sleep, out of service until it has new weights."""
        ...


class Resting(Protocol):
    """A learner that can give up memory; cluster/actors/learner_group.py implements it."""

    async def rest(self) -> None:
        """Give up memory that only updates need; the next update takes it again."""
        ...


class Turns:
    """Turns of the engines and the learner of a run, as its recipe wants them."""

    def __init__(self, config: RunConfig, engines: Sleeping, learner: Resting) -> None:
        self._engines, self._learner = engines, learner
        self.sleeps = config.rollout.sleep
        """Whether engines sleep while the learner trains."""
        self._rests = config.learner.offload_while_generating
        without = [
            key
            for key, asked, num_gpus in (
                ("rollout.sleep", self.sleeps, config.rollout.num_gpus),
                ("learner.offload_while_generating", self._rests, config.learner.num_gpus),
            )
            if asked and not num_gpus
        ]
        if without:
            console.print(f"{' and '.join(without)} = true frees GPU memory: nothing on a CPU")

    async def to_learner(self) -> None:
        """Let the learner train. Nobody may ask the engines for anything until weights are
        published."""
        if self.sleeps:
            await self._engines.sleep()

    async def to_engines(self) -> None:
        """Let the engines write, once they are published to."""
        if self._rests:
            await self._learner.rest()
