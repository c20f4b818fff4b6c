"""Stage 2: GRPO, by the loops of cluster/loop.py.

version of the weights after step s of the stage = FIRST_STEP + s
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cluster.buffer import GroupBuffer
from cluster.checkpoints import Checkpoints
from cluster.failures import refuse_failures
from cluster.loop import rollout_loop, run_until_trained, train_loop
from cluster.metrics import Stopwatch
from cluster.progress import Bar, progress_bar
from cluster.sampler import Sampler
from cluster.session import Session
from learner.rows import Row, grpo_rows
from reward.stats import summarise
from rollout.engine import Sampling
from wire.types import Purpose, Sample, TraceGroup, stable_seed

FIRST_STEP = 1
"""Version step of the weights that GRPO starts from: 0 is the base, 1 the cold start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoPlan:
    """One training by GRPO: the stage's, or that of a control arm."""

    name: str
    """Of the stage or arm: in group ids, seeds, metrics and checkpoints."""
    samples: Sequence[Sample]
    first_step: int = FIRST_STEP
    """Version step of the weights that it starts from."""


class TrainingGroups:
    """Writes the group of a place; the seed comes from the place, so a resumed run draws the
    same."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name
        rollout = session.config.rollout
        self._n, self._temperature = rollout.group_size, rollout.temperature
        self._max_tokens = rollout.max_response_length

    async def write(self, sample: Sample, index: int) -> TraceGroup:
        """One archived group."""
        sampling = Sampling(
            n=self._n,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            seed=stable_seed(self._name, self._session.config.seed, index),
        )
        group_id = f"{self._name}/{index:08d}"
        return await self._session.writer.write(sample, sampling, Purpose.TRAIN, group_id)


class GrpoLearner:
    """One step: rows, updates, weights to the engines, archive compacted, numbers logged."""

    def __init__(
        self, session: Session, plan: GrpoPlan, checkpoints: Checkpoints, bar: Bar
    ) -> None:
        self._session, self._plan = session, plan
        self._checkpoints, self._bar = checkpoints, bar
        self._watch = Stopwatch()
        self._since = time.perf_counter()

    async def train(self, groups: Sequence[TraceGroup], step: int) -> None:
        """Train on groups and publish the version after ``step`` (counted from 1)."""
        session, config, watch = self._session, self._session.config, self._watch
        refuse_failures(groups, config.reward.max_failure_frac)
        version = self._plan.first_step + step
        figures = {**summarise(groups), **session.scorer.take_figures()}
        figures |= trace_figures(groups, version - 1)
        rows = grpo_rows(groups, config.grpo.loss.adv_epsilon)
        if rows:
            with watch("update_actor"):
                figures |= await self._update(rows, step)
            with watch("update_weights"):
                figures |= await session.publish(version)
        with watch("archive"):
            session.archive.compact(version)
        if step % config.grpo.save_every == 0 or step == config.grpo.num_steps:
            with watch("save"):
                await self._checkpoints.save(step)
        now = time.perf_counter()
        watch.seconds["timing_s/step"], self._since = now - self._since, now
        session.metrics.write(self._plan.name, step, {**figures, **watch.seconds})
        self._watch = Stopwatch()
        self._bar.advance(note=f"reward {figures.get('reward/mean', float('nan')):.2f}")

    async def _update(self, rows: list[Row], step: int) -> dict[str, float]:
        grpo, learner = self._session.config.grpo, self._session.learner
        count = grpo.updates_per_step
        if count > 1:
            rows = await learner.with_old_logprobs(rows)
        total = grpo.num_steps * count
        parts = [rows[k * len(rows) // count : (k + 1) * len(rows) // count] for k in range(count)]
        figures = []
        for number, part in enumerate(parts):
            if part:
                rate = grpo.optim.learning_rate_at((step - 1) * count + number, total)
                figures.append(await learner.train_step(part, "grpo", rate))
        return {name: _combine(name)(f[name] for f in figures) for name in figures[0]}


def _combine(name: str) -> Callable[[Iterable[float]], float]:
    """How the figures of a step's updates become one."""
    return max if name.rpartition("/")[2].startswith("max") else fmean


async def run_grpo(session: Session, model_dir: Path, plan: GrpoPlan) -> None:
    """Train ``model_dir`` by GRPO; the result is in the learner and in the engines."""
    grpo = session.config.grpo
    await session.begin(model_dir, grpo.optim)
    checkpoints = Checkpoints(session, plan.name)
    done = await checkpoints.resume()
    await session.publish(plan.first_step + done)
    capacity = (grpo.max_staleness + 1) * grpo.groups_per_step
    first, end = done * grpo.groups_per_step, grpo.num_steps * grpo.groups_per_step
    buffer = GroupBuffer(capacity, first, end)
    sampler = Sampler(plan.samples, session.config.seed)
    writer = TrainingGroups(session, plan.name)
    with progress_bar(plan.name, grpo.num_steps) as bar:
        bar.resume(done)
        learner = GrpoLearner(session, plan, checkpoints, bar)
        steps = range(done + 1, grpo.num_steps + 1)
        train = train_loop(buffer, learner, steps, grpo.groups_per_step)
        loops = [rollout_loop(sampler.at, writer, buffer) for _ in range(capacity)]
        await run_until_trained(train, loops)


def trace_figures(groups: Sequence[TraceGroup], trained_from: int) -> dict[str, float]:
    """Lengths, truncation, failures and staleness of a step's traces. Staleness is in versions."""
    completions = [trace.completion for group in groups for trace in group.traces]
    failed = [group for group in groups if not group.traces]
    figures = {"rollout/failed_groups_frac": len(failed) / len(groups)}
    if not completions:
        return figures
    lengths = [len(completion.token_ids) for completion in completions]
    lags = [trained_from - completion.policy_version.step for completion in completions]
    return figures | {
        "response_length/mean": fmean(lengths),
        "response_length/max": float(max(lengths)),
        "truncated_frac": fmean(c.finish_reason.is_truncated for c in completions),
        "staleness/mean": fmean(lags),
        "staleness/max": float(max(lags)),
    }
