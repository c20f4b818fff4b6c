"""Stage 2: trains the policy by GRPO, with the loops of cluster/loop.py.

version of the weights after step s of the stage = FIRST_STEP + s
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cluster.buffer import GroupBuffer
from cluster.config.stages import GrpoConfig
from cluster.driver.daemon_thread import run_in_daemon_thread
from cluster.driver.progress import Bar, console, progress_bar
from cluster.loop import DynamicSampling, StepGroups, rollout_loop, run_until_trained, train_loop
from cluster.metrics.metrics_log import Stopwatch
from cluster.resume.archived_groups import (
    ArchivedGroups,
    ReusableGroups,
    group_id_of,
    reusable_groups,
)
from cluster.resume.checkpoints import Checkpoints
from cluster.resume.loop_state import LoopState
from cluster.session import Session
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.grpo_metrics import CacheHitRates, filter_figures, throughput, trace_figures
from cluster.stages.hacking_guards import HackingGuards
from cluster.stages.longest_prompt import longest_prompt
from cluster.stages.policy_versions import FIRST_STEP
from learner.objective.credit import has_signal, with_advantages
from learner.shared_prefix.rows import Row, grpo_rows
from reward.stats import summarise
from rollout.engine import Sampling
from rollout.sampler import Sampler
from wire.errors import ConfigError
from wire.types import Purpose, Sample, Split, TraceGroup, stable_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoPlan:
    """Plan of one GRPO training: the stage's, or that of a control arm."""

    name: str
    """Name of the stage or arm: in group ids, seeds, metrics and checkpoints."""
    samples: Sequence[Sample]
    first_step: int = FIRST_STEP
    """Version step of the weights that it starts from."""
    archived: ReusableGroups | None = None
    """What a look through the archive found already, so that it is not read again."""


class TrainingGroupWriter:
    """Writes the training group of a place, or reuses the one of an earlier attempt. The seed
    comes from the place, so a resumed run samples the same."""

    def __init__(self, session: Session, name: str, archived: ArchivedGroups) -> None:
        self._session, self._name, self._archived = session, name, archived
        rollout = session.config.rollout
        self._n, self._temperature = rollout.group_size, rollout.temperature
        self._max_tokens = rollout.max_response_length

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        """Write or reuse one archived group."""
        group_id = group_id_of(self._name, index)
        if (group := self._archived.take(group_id)) is not None:
            return group
        sampling = Sampling(
            n=self._n,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            seed=stable_seed(self._name, self._session.config.seed, index),
            turn=index,
        )
        writer = self._session.writer
        return await writer.write(sample, sampling, Purpose.TRAIN, group_id, upcoming)


class GrpoLearner:
    """Trains one GRPO step: rows, updates, weights to the engines, archive compacted, metrics
    logged."""

    def __init__(
        self,
        session: Session,
        plan: GrpoPlan,
        buffer: GroupBuffer,
        archived: ArchivedGroups,
        checkpoints: Checkpoints,
        guards: HackingGuards,
        bar: Bar,
    ) -> None:
        self._session, self._plan = session, plan
        self._buffer, self._archived = buffer, archived
        self._checkpoints, self._guards, self._bar = checkpoints, guards, bar
        self._watch = Stopwatch()
        self._since = self._waiting_since = time.perf_counter()
        self._hits = CacheHitRates(session)
        self._rewards: list[float] = []  # of the steps since the last checkpoint

    async def train(self, taken: StepGroups, step: int) -> None:
        """Train on a step's groups and publish the version after ``step`` (counted from 1)."""
        session, config, watch = self._session, self._session.config, self._watch
        groups = taken.all
        watch.add("gen", time.perf_counter() - self._waiting_since)
        refuse_failures(groups, config.reward.max_failure_frac)
        version = self._plan.first_step + step
        figures = {**summarise(groups), **session.scorer.take_figures()}
        figures |= trace_figures(groups, version - 1)
        figures |= self._guards.check_step(groups, figures.get("response_length/mean"))
        figures |= await self._hits.of_step()
        if config.grpo.filter_groups.enable:
            figures |= filter_figures(taken)
        rows = await self._rows(taken.trained)
        if rows:
            with watch("update_actor"):
                figures |= await self._update(rows, step)
        if config.deterministic:  # no answer is to be half of the old weights, half of the new
            with watch("settle"):
                await self._buffer.settled()
        with watch("update_weights"):  # without an update, too: versions count steps
            figures |= await session.publish(version)
        with watch("archive"):
            session.archive.compact(version)
        self._rewards += [figures["reward/mean"]] if "reward/mean" in figures else []
        now = time.perf_counter()
        watch.seconds["timing_s/step"], self._since = now - self._since, now
        figures |= throughput(groups, watch.seconds)
        figures |= {
            "rollout/next_place": float(self._buffer.next_index),
            "rollout/num_taken_up": float(self._archived.num_taken),
        }
        figures["quarantine/num_clips"] = float(len(session.quarantine))
        session.metrics.write(self._plan.name, step, {**figures, **watch.seconds})
        self._watch = Stopwatch()
        if step % config.grpo.save_every == 0 or step == config.grpo.num_steps:
            with self._watch("save"):  # last: a step that is in a checkpoint has been logged
                await self._checkpoints.save(self._state(step), version)
        self._bar.advance(note=f"reward {figures.get('reward/mean', float('nan')):.2f}")
        self._waiting_since = time.perf_counter()

    def _state(self, step: int) -> LoopState:
        """Where the loop stands after a step, for its checkpoint."""
        rewards, self._rewards = self._rewards, []
        return LoopState(
            step=step,
            next_index=self._buffer.next_index,
            buffered=tuple(group.group_id for group in self._buffer.waiting()),
            score=fmean(rewards) if rewards else None,
            guards=self._guards.state,
        )

    async def _rows(self, groups: Sequence[TraceGroup]) -> list[Row]:
        """Rows that the step trains, with all logprobs that its objective needs."""
        grpo, learner = self._session.config.grpo, self._session.learner
        loss, rows = grpo.loss, grpo_rows(groups)
        by_trainer = loss.old_logprobs == "trainer"
        if rows and by_trainer and (grpo.updates_per_step > 1 or loss.kl_coef):
            with self._watch("old_log_prob"):
                rows = await learner.with_old_logprobs(rows)
        if rows and loss.needs_reference:
            with self._watch("ref"):
                rows = await learner.with_ref_logprobs(rows)
        return with_advantages(rows, loss)

    async def _update(self, rows: list[Row], step: int) -> dict[str, float]:
        grpo, learner = self._session.config.grpo, self._session.learner
        total = grpo.num_steps * grpo.updates_per_step
        count = grpo.updates_per_epoch
        parts = [rows[k * len(rows) // count : (k + 1) * len(rows) // count] for k in range(count)]
        figures = []
        for number, part in enumerate(parts * grpo.ppo_epochs):
            if part:
                at = (step - 1) * grpo.updates_per_step + number
                rate = grpo.optim.learning_rate_at(at, total)
                figures.append(await learner.train_step(part, "grpo", rate))
        return {name: _combine(name)(f[name] for f in figures) for name in figures[0]}


def _combine(name: str) -> Callable[[Iterable[float]], float]:
    """How the figures of a step's updates become one."""
    return max if name.rpartition("/")[2].startswith("max") else fmean


async def run_grpo(session: Session, model_dir: Path, plan: GrpoPlan) -> None:
    """Train ``model_dir`` by GRPO; the result stays in the learner and in the engines."""
    grpo = session.config.grpo
    await session.start_training(model_dir, grpo.optim)
    checkpoints = session.checkpoints(plan.name, grpo.keep_last, grpo.keep_best)
    state = await checkpoints.resume()
    archived = await run_in_daemon_thread(_load_reusable_groups, session, plan, state)
    rollout = session.config.rollout
    await session.preflight(
        plan.name,
        prompt=await longest_prompt(session, plan.samples),
        response=rollout.max_response_length,
        group_size=rollout.group_size,
        groups_per_update=grpo.groups_per_update or grpo.groups_per_step,
        refers=grpo.loss.needs_reference,
    )
    await session.publish(plan.first_step + state.step)
    capacity = (grpo.max_staleness + 1) * grpo.groups_per_step
    # and those of replaced groups; those that lie in the archive are among them
    num_places = (grpo.num_steps - state.step) * grpo.groups_per_step
    buffer = GroupBuffer(capacity, state.next_index, num_places)
    sampler = Sampler(plan.samples, session.config.seed, balanced=grpo.class_balanced)
    writer = TrainingGroupWriter(session, plan.name, archived)
    with progress_bar(plan.name, grpo.num_steps) as bar:
        bar.resume(state.step)
        guards = HackingGuards(session.config, session.renderer, plan.name, state.guards)
        learner = GrpoLearner(session, plan, buffer, archived, checkpoints, guards, bar)
        steps = range(state.step + 1, grpo.num_steps + 1)
        train = train_loop(buffer, learner, steps, grpo.groups_per_step, filter_of(grpo))
        loops = [rollout_loop(sampler.at, writer, buffer) for _ in range(capacity)]
        await run_until_trained(train, loops)


def _load_reusable_groups(session: Session, plan: GrpoPlan, state: LoopState) -> ArchivedGroups:
    """Read the reusable groups. Raises ConfigError if a deterministic run has lost some."""
    config, run_dir = session.config, session.run_dir
    reusable = reusable_groups(
        config, run_dir, plan.name, plan.first_step, state, session.attempt, plan.archived
    )
    if reusable.num_lost:
        lost = f"{run_dir.archive} lacks {reusable.num_lost} groups that the checkpoint counts on"
        if config.deterministic:
            raise ConfigError(
                f"{lost}: the run cannot go on to the bit; restore them, or set deterministic = "
                "false to go on without"
            )
        log.warning("%s; their places are written anew", lost)
    if reusable.usable or reusable.num_others:
        console.print(
            f"{plan.name}: {len(reusable.usable)} archived groups are taken up, "
            f"{reusable.num_others} written anew"
        )
    return ArchivedGroups.read(run_dir.archive, reusable)


def filter_of(grpo: GrpoConfig) -> DynamicSampling | None:
    """The recipe's dynamic sampling; None if it is off."""
    if not grpo.filter_groups.enable:
        return None
    return DynamicSampling(
        has_signal=lambda group: has_signal(group, grpo.loss),
        max_groups=grpo.filter_groups.max_num_gen_batches * grpo.groups_per_step,
    )


async def run_grpo_stage(
    session: Session, model_dir: Path, archived: ReusableGroups | None = None
) -> dict[str, Any]:
    """Stage 2."""
    plan = GrpoPlan(name="grpo", samples=session.data.of(Split.TRAIN), archived=archived)
    await run_grpo(session, model_dir, plan)
    await session.learner.export(str(session.run_dir.model("grpo")))
    return await evaluate_policy(session, "grpo")
