"""The real Ray loop on scripted engines: actors, pool, rewards and archive are a run's; engine and
learner only take their time. (The measured side of tests/benchmarks/simulation.py.)"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.actors import placement, ray_fleet
from cluster.actors.rollout_pool import RolloutPool
from cluster.buffer import GroupBuffer
from cluster.config.recipe import RunConfig
from cluster.group_writer import GroupWriter
from cluster.inputs.scorer import make_scorer
from cluster.loop import StepGroups, rollout_loop, run_until_trained, train_loop
from cluster.simulation.engine import ScriptedEngine
from cluster.simulation.scenario import Scenario
from rollout.engine import Sampling
from rollout.worker import Rollout
from video.quarantine import Quarantine
from wire.archive.archive import Archive
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Split,
    TraceGroup,
)

LABEL = "undo"
SAMPLE = Sample(id="scripted", video="/scripted.mp4", label=LABEL, split=Split.TRAIN)
PROMPT = Prompt(token_ids=TokenIds(range(100)), clip_key="k", fingerprint="f")
FIRST = PolicyVersion(attempt=0, step=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the real loop did."""

    step_s: float
    """Seconds of a step, on average, without the first."""
    driver_ms_per_trace: float
    """CPU of the driver's process per trace, all of its threads."""
    staleness: dict[int, int]


class ScriptedActor:
    """A RolloutActor whose engine is the simulation's, in real time."""

    def __init__(self, config: Scenario, name: str) -> None:
        self._scenario, self._name = config, name
        self._lengths = config.lengths
        self._engine: ScriptedEngine | None = None

    async def start(self, model_dir: str, version: PolicyVersion, starts: int = 0) -> int:
        """Start the scripted engine."""
        speed = self._scenario.timings.engine_speed(self._scenario.rollout.max_num_seqs)
        self._engine = ScriptedEngine(speed, version.step)
        return os.getpid()

    async def answer(self, sample: Sample, sampling: Sampling, *_: Any) -> Rollout:
        """Write a group of the lengths that the simulation gives its place."""
        assert self._engine is not None, "start() comes first"
        lengths = self._lengths.of(sampling.turn, sampling.n)
        versions = await self._engine.write(lengths)
        traces = [
            _trace(length, version) for length, version in zip(lengths, versions, strict=True)
        ]
        return Rollout(
            prompt=PROMPT,
            completions=tuple(traces),
            failures=(),
            policy_version=_version(min(versions)),
        )

    async def load(self, version: PolicyVersion) -> None:
        """Take as long as new weights do."""
        assert self._engine is not None, "start() comes first"
        self._engine.halt()
        await asyncio.sleep(self._scenario.timings.load_weights_s)
        self._engine.version = version.step
        self._engine.go_on("keep")

    async def probe(self) -> bool:
        """Write a token."""
        return True

    async def is_alive(self) -> bool:
        """Whether the engine runs."""
        return True

    async def end_processes(self) -> None:
        """Nothing: there are none."""

    async def stop(self) -> None:
        """Nothing: there is nothing to end."""


def _trace(length: int, version: int) -> Completion:
    return Completion(
        token_ids=TokenIds(range(length)),
        logprobs=Logprobs([-0.5] * length),
        text=f"<think>{'word ' * length}</think><answer>{LABEL}</answer>",
        finish_reason=FinishReason.STOP,
        policy_version=_version(version),
    )


def _version(step: int) -> PolicyVersion:
    return PolicyVersion(attempt=0, step=step)


class _Learner:
    """Takes as long as the scenario's learner, and sends new versions to the actors."""

    def __init__(self, scenario: Scenario, pool: RolloutPool, actors: dict[str, Any]) -> None:
        self._scenario, self._pool, self._actors = scenario, pool, actors
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.lags: dict[int, int] = {}

    async def train(self, taken: StepGroups, step: int) -> None:
        timings, traces = self._scenario.timings, 0
        for group in taken.trained:
            for trace in group.traces:
                lag = step - 1 - trace.completion.policy_version.step
                self.lags[lag] = self.lags.get(lag, 0) + 1
                traces += 1
        await asyncio.sleep(timings.learner_s_per_step + timings.learner_s_per_trace * traces)
        version = _version(step)
        with self._pool.updating(version):
            names = self._pool.names
            await asyncio.gather(*[self._actors[name].load.remote(version) for name in names])
            for name in names:
                self._pool.proven(name, version)
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


@dataclass(frozen=True, slots=True)
class _PlacedWriter:
    """Writes the group of a place: its number is the request's turn, which names its lengths."""

    writer: GroupWriter
    group_size: int

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        sampling = Sampling(n=self.group_size, temperature=1.0, max_tokens=100_000, turn=index)
        return await self.writer.write(sample, sampling, Purpose.TRAIN, f"scripted/{index}")


async def run_on_ray(config: RunConfig, scenario: Scenario) -> Measured:
    """Run a scenario's steps on Ray actors."""
    with tempfile.TemporaryDirectory() as folder, _scripted_actors(scenario):
        async with placement.reserved(config, debug=False) as seats:
            pool = RolloutPool(config, seats.workers)
            await pool.start("", FIRST)
            try:
                return await _loop(config, scenario, pool, Path(folder))
            finally:
                await pool.stop()


async def _loop(config: RunConfig, scenario: Scenario, pool: RolloutPool, folder: Path) -> Measured:
    grpo, size = scenario.grpo, scenario.rollout.group_size
    learner = _Learner(scenario, pool, pool._fleet.actors)
    buffer = GroupBuffer(
        (grpo.max_staleness + 1) * grpo.groups_per_step,
        0,
        scenario.num_steps * grpo.groups_per_step,
    )
    async with make_scorer(config) as scorer:
        with Archive(folder / "archive", 0) as archive:
            quarantine = Quarantine(folder / "quarantine.jsonl")
            inner = GroupWriter(
                pool, scorer, archive, quarantine, lambda: FIRST, lambda sample: "which one?"
            )
            writer = _PlacedWriter(inner, size)
            steps = range(1, scenario.num_steps + 1)
            loops = [
                rollout_loop(lambda place: SAMPLE, writer, buffer) for _ in range(buffer.capacity)
            ]
            train = train_loop(buffer, learner, steps, grpo.groups_per_step)
            await run_until_trained(train, loops)
    ends, count = learner.ends, len(learner.ends) - 1
    cpu_s = learner.cpu[-1] - learner.cpu[0]
    return Measured(
        step_s=(ends[-1] - ends[0]) / count,
        driver_ms_per_trace=1000 * cpu_s / (count * grpo.groups_per_step * size),
        staleness=learner.lags,
    )


@contextmanager
def _scripted_actors(scenario: Scenario) -> Iterator[None]:
    """Actors of the pool are scripted ones in the block."""
    real = ray_fleet.RemoteRolloutActor
    scripted = ray.remote(ScriptedActor)

    class Remote:
        """``ray.remote`` of the scripted actor, which takes a scenario in place of a recipe."""

        @staticmethod
        def options(**options: Any) -> Any:
            made = scripted.options(**options)

            class Bound:
                @staticmethod
                def remote(config: RunConfig, name: str) -> Any:
                    return made.remote(scenario, name)

            return Bound

    ray_fleet.RemoteRolloutActor = Remote
    try:
        yield
    finally:
        ray_fleet.RemoteRolloutActor = real
