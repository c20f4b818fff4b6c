"""Stage 2: GRPO, by the loops of cluster/loop.py.

version of the weights after step s of the stage = FIRST_STEP + s
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import psutil

from cluster.buffer import GroupBuffer
from cluster.checkpoints import Checkpoints
from cluster.failures import refuse_failures
from cluster.largest import longest_prompt
from cluster.loop import rollout_loop, run_until_trained, train_loop
from cluster.metrics import Stopwatch
from cluster.progress import Bar, progress_bar
from cluster.sampler import Sampler
from cluster.session import Session
from learner.rows import Row, grpo_rows
from reward.stats import summarise
from rollout.engine import Sampling
from wire.types import FinishReason, Purpose, Sample, TraceGroup, stable_seed

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
        self._hits = HitRates(session)

    async def train(self, groups: Sequence[TraceGroup], step: int) -> None:
        """Train on groups and publish the version after ``step`` (counted from 1)."""
        session, config, watch = self._session, self._session.config, self._watch
        watch.add("gen", time.perf_counter() - self._since)
        refuse_failures(groups, config.reward.max_failure_frac)
        version = self._plan.first_step + step
        figures = {**summarise(groups), **trace_figures(groups, version - 1)}
        figures |= await self._hits.of_step()
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
        figures |= throughput(groups, watch.seconds)
        figures["quarantine/num_clips"] = float(len(session.quarantine))
        session.metrics.write(self._plan.name, step, {**figures, **watch.seconds})
        self._watch = Stopwatch()
        self._bar.advance(note=f"reward {figures.get('reward/mean', float('nan')):.2f}")

    async def _update(self, rows: list[Row], step: int) -> dict[str, float]:
        grpo, learner = self._session.config.grpo, self._session.learner
        count = grpo.updates_per_step
        if count > 1:
            before = time.perf_counter()
            rows = await learner.with_old_logprobs(rows)
            spent = time.perf_counter() - before
            self._watch.add("old_log_prob", spent)
            self._watch.add("update_actor", -spent)  # the phase around it: phases add up
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


class HitRates:
    """What the rollout workers' clip caches and the engines' prefix caches spared, by step."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: Counter[str] = Counter()

    async def of_step(self) -> dict[str, float]:
        """Since the last call. A rate without a request is left out."""
        now = Counter(await self._session.rollouts.cache_counts())
        now += self._session.writer.token_counts
        new, self._before = now - self._before, now
        clips, tokens = new["clip_hits"] + new["clip_misses"], new["prompt_tokens"]
        figures = {}
        if clips:
            figures["cache/clip_hit_rate"] = new["clip_hits"] / clips
        if tokens:
            figures["cache/prefix_hit_rate"] = new["cached_prompt_tokens"] / tokens
        return figures


async def run_grpo(session: Session, model_dir: Path, plan: GrpoPlan) -> None:
    """Train ``model_dir`` by GRPO; the result is in the learner and in the engines."""
    grpo = session.config.grpo
    await session.begin(model_dir, grpo.optim)
    checkpoints = Checkpoints(session, plan.name)
    done = await checkpoints.resume()
    rollout = session.config.rollout
    await session.preflight(
        plan.name,
        prompt=await longest_prompt(session, plan.samples),
        response=rollout.max_response_length,
        group_size=rollout.group_size,
        groups_per_update=grpo.groups_per_update or grpo.groups_per_step,
    )
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
    """Lengths, ends, failures and staleness of a step's traces. Staleness is in versions."""
    completions = [trace.completion for group in groups for trace in group.traces]
    failed = [group for group in groups if not group.traces]
    figures = {"rollout/failed_groups_frac": len(failed) / len(groups)}
    if not completions:
        return figures
    lengths = [len(completion.token_ids) for completion in completions]
    prompts = [len(group.prompt.token_ids) for group in groups if group.prompt and group.traces]
    lags = [trained_from - completion.policy_version.step for completion in completions]
    ends = [completion.finish_reason for completion in completions]
    return (
        figures
        | {f"finish_reason/{end}": fmean(e is end for e in ends) for end in FinishReason}
        | {
            "response_length/mean": fmean(lengths),
            "response_length/min": float(min(lengths)),
            "response_length/max": float(max(lengths)),
            "prompt_length/mean": fmean(prompts),
            "prompt_length/max": float(max(prompts)),
            "truncated_frac": fmean(end.is_truncated for end in ends),
            "staleness/mean": fmean(lags),
            "staleness/max": float(max(lags)),
        }
    )


def throughput(groups: Sequence[TraceGroup], seconds: Mapping[str, float]) -> dict[str, float]:
    """Tokens per second of a step, from its traces and its phases; memory of this node."""
    responses = sum(len(t.completion.token_ids) for group in groups for t in group.traces)
    prompts = [(group.prompt, len(group.traces)) for group in groups if group.prompt]
    every = responses + sum(len(prompt.token_ids) * count for prompt, count in prompts)
    computed = sum(
        len(group.prompt.token_ids) + sum(len(t.completion.token_ids) for t in group.scored)
        for group in groups
        if group.prompt and group.scored
    )
    step = seconds["timing_s/step"]
    figures = {
        "perf/time_per_step": step,
        "perf/total_num_tokens": float(every),
        "perf/throughput": every / max(step, 1e-9),
        "perf/rollout_tokens_per_s": responses / max(seconds["timing_s/gen"], 1e-9),
        "perf/cpu_memory_used_gb": psutil.virtual_memory().used / 1e9,
    }
    if "timing_s/update_actor" in seconds:
        rate = computed / max(seconds["timing_s/update_actor"], 1e-9)
        figures["perf/train_tokens_per_s"] = rate
    return figures
