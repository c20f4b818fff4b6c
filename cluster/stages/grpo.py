"""Stage 2: trains the policy by GRPO, with the loops of cluster/loop.py.

version of the weights after step s = first version of the stage (cluster/config/chain.py) + s
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from cluster.actors.learner_group import LearnerGroup
from cluster.buffer import GroupBuffer
from cluster.config.guards import GuardsConfig
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.config.stages import GrpoConfig
from cluster.driver.progress import Bar, console, progress_bar
from cluster.loop import DynamicSampling, StepGroups, rollout_loop, run_until_trained, train_loop
from cluster.metrics.decoded_clips import DecodedClips
from cluster.metrics.learning_guards import LearningGuards, LearningState
from cluster.metrics.metrics_log import MetricsLog, Stopwatch
from cluster.resume.archived_groups import (
    ArchivedGroups,
    reusable_groups,
)
from cluster.resume.checkpoints import Checkpoints
from cluster.resume.loop_state import LoopState
from cluster.run_dir import RunDir
from cluster.session import Session
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.grpo_metrics import (
    CacheHitRates,
    filter_figures,
    of_updates,
    throughput,
    trace_figures,
)
from cluster.stages.hacking_guards import HackingGuards
from cluster.stages.longest_prompt import longest_prompt
from cluster.stages.stage import StageRun, best_kept_of
from cluster.stages.training_groups import TrainingGroupWriter
from cluster.stages.validation import Validation, restored_by
from cluster.stages.validators import grpo_validator
from cluster.weight_sync.turns import Turns
from learner.objective.credit import has_signal, with_advantages
from learner.shared_prefix.rows import Row, grpo_rows
from reward.scorer import Scorer
from reward.stats import summarise
from rollout.sampler import Sampler
from video.quarantine import Quarantine
from wire.archive.archive import Archive
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import ConfigError
from wire.types import TraceGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoParts:
    """All that a GRPO training works with, a run's or a test's."""

    learner: LearnerGroup
    publish: Callable[[int], Awaitable[dict[str, float]]]
    """Sends the learner's weights to the engines, as a version step. Returns metrics."""
    turns: Turns
    buffer: GroupBuffer
    archived: ArchivedGroups
    archive: Archive
    checkpoints: Checkpoints
    scorer: Scorer
    guards: HackingGuards
    learning: LearningGuards
    cache_hits: CacheHitRates
    decoded_clips: DecodedClips
    quarantine: Quarantine
    validation: Validation
    metrics: MetricsLog
    max_failure_frac: float
    deterministic: bool


class GrpoLearner:
    """Trains one GRPO step: rows, updates, weights to the engines, archive compacted, metrics
    logged."""

    def __init__(self, run: StageRun, parts: "GrpoParts", bar: Bar, step: int) -> None:
        self._run, self._grpo, self._parts, self._bar = run, run.of(GrpoStage), parts, bar
        self.step = step
        """The last step that has been trained."""
        self._watch = Stopwatch()
        self._since = self._waiting_since = time.perf_counter()
        self._scores: list[float] = []  # of the steps since the last checkpoint

    async def train(self, taken: StepGroups, step: int) -> None:
        """Train on a step's groups and publish the version after ``step`` (counted from 1)."""
        self._watch.add("gen", time.perf_counter() - self._waiting_since)
        version = self._run.first_step + step
        figures = await self._observe(taken, version)
        await self._to_learner()
        figures |= await self._learn(taken.trained, step)
        figures |= self._parts.learning.warn(figures)
        figures |= await self._publish(version)
        self._record(taken, step, figures)
        self._parts.learning.refuse(figures)
        if step == self._grpo.num_steps:  # for the last checkpoint, and nothing goes on meanwhile
            await self._parts.validation.run(step)
        await self._save(step, version)
        self._parts.validation.start(step)
        self.step = step
        self._bar.advance(note=f"reward {figures.get('reward/mean', float('nan')):.2f}")
        self._waiting_since = time.perf_counter()

    def steps(self) -> Iterator[int]:
        """The steps to come, up to the last or to an early stop."""
        while self.step < self._grpo.num_steps and not self._parts.validation.stopped:
            yield self.step + 1

    async def _observe(self, taken: StepGroups, version: int) -> dict[str, float]:
        """Metrics of a step's groups. Raises TooManyFailures."""
        groups = taken.all
        parts = self._parts
        refuse_failures(groups, parts.max_failure_frac)
        figures = {**summarise(groups), **parts.scorer.take_figures()}
        figures |= trace_figures(groups, version - 1)
        figures |= parts.guards.check_step(groups, figures.get("response_length/mean"))
        figures |= await parts.cache_hits.of_step()
        figures |= await parts.decoded_clips.new()
        signal = any(has_signal(group, self._grpo.loss) for group in groups)
        parts.learning.observe_step(groups, has_signal=signal)
        if self._grpo.filter_groups.enable:
            figures |= filter_figures(taken)
        return figures

    async def _to_learner(self) -> None:
        parts, watch = self._parts, self._watch
        if parts.turns.sleeps:
            await self._collect_validation()  # which asks the engines
            with watch("sleep"):
                await parts.turns.to_learner()

    async def _collect_validation(self) -> None:
        if self._parts.validation.is_running:  # all its traces are of one version
            with self._watch("validate"):
                await self._parts.validation.collect()

    async def _learn(self, groups: Sequence[TraceGroup], step: int) -> dict[str, float]:
        """Update the policy, if there is anything to learn. Returns metrics."""
        rows = await self._rows(groups)
        if not rows:
            return {}
        with self._watch("update_actor"):
            return await self._update(rows, step)

    async def _publish(self, version: int) -> dict[str, float]:
        """The new weights into the engines, the archive compacted. Returns metrics."""
        parts, watch = self._parts, self._watch
        if parts.deterministic:  # no answer is to be half of the old weights, half new
            with watch("settle"):
                await parts.buffer.settled()
        await self._collect_validation()
        with watch("update_weights"):  # without an update, too: versions count steps
            await parts.turns.to_engines()
            figures = await parts.publish(version)
        with watch("archive"):
            await run_in_daemon_thread(parts.archive.compact, version)
        return figures

    def _record(self, taken: StepGroups, step: int, figures: Mapping[str, float]) -> None:
        """Log a step's metrics."""
        by = self._grpo.keep_best_by
        self._scores += [figures[by]] if by in figures else []
        seconds, now = self._watch.seconds, time.perf_counter()
        seconds["timing_s/step"], self._since = now - self._since, now
        parts = self._parts
        parts.metrics.write(
            self._run.name,
            step,
            {
                **figures,
                **throughput(taken, seconds, self._grpo.ppo_epochs),
                "rollout/next_place": float(parts.buffer.next_index),
                "rollout/num_taken_up": float(parts.archived.num_taken),
                "quarantine/num_clips": float(len(parts.quarantine)),
                **seconds,
            },
        )
        self._watch = Stopwatch()

    async def _save(self, step: int, version: int) -> None:
        """A checkpoint where one is due; last of all: a step that is in one has been logged."""
        if self._grpo.saves_at(step) or self._parts.validation.stopped:
            with self._watch("save"):
                await self._parts.checkpoints.save(self._state(step), version)

    def _state(self, step: int) -> LoopState:
        """Where the loop stands after a step, for its checkpoint."""
        scores, self._scores = self._scores, []
        buffer = self._parts.buffer
        return LoopState(
            step=step,
            next_index=buffer.next_index,
            buffered=tuple(group.group_id for group in buffer.waiting()),
            score=fmean(scores) if scores else None,
            scored_by=self._grpo.keep_best_by,
            guards=self._parts.guards.state,
            learning=self._parts.learning.state,
            validations=self._parts.validation.done,
        )

    async def _rows(self, groups: Sequence[TraceGroup]) -> list[Row]:
        """Rows that the step trains, with all logprobs that its objective needs."""
        grpo, learner = self._grpo, self._parts.learner
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
        grpo, learner = self._grpo, self._parts.learner
        total = grpo.num_steps * grpo.updates_per_step
        count = grpo.updates_per_epoch
        parts = [rows[k * len(rows) // count : (k + 1) * len(rows) // count] for k in range(count)]
        figures = []
        for number, part in enumerate(parts * grpo.ppo_epochs):
            if part:
                at = (step - 1) * grpo.updates_per_step + number
                rate = grpo.optim.learning_rate_at(at, total)
                update = await learner.train_step(part, "grpo", rate)
                signal = any(one.advantage for row in part for one in row.responses)
                self._parts.learning.observe_update(update, has_signal=signal)
                figures.append(update)
        return of_updates(figures)


async def run_grpo_stage(session: Session, run: StageRun) -> dict[str, Any]:
    """Train the policy by GRPO, keep its model, and measure it."""
    validated = await train_grpo(session, run)
    if run.exports:
        await session.learner.export(str(session.run_dir.model(run.name)))
    if session.engine_weights_step != run.last_step:  # it stopped early, or went back to the best
        await session.publish(run.last_step)
    samples = session.data.of(session.config.evaluate.split)
    temperature = session.config.evaluate.temperature
    measured = await evaluate_policy(session, run.name, samples, temperature, trained=True)
    return {**measured, **validated}


async def train_grpo(session: Session, run: StageRun) -> dict[str, Any]:
    """Train the start weights by GRPO; the result stays in the learner. Returns what done.json says
    of the validations."""
    grpo, config = run.of(GrpoStage), session.config
    samples = grpo.clips.of(session.data.samples)
    await session.start_training(run.start.model_dir, grpo.optim, grpo.loss)
    kept = [best_kept_of(grpo), restored_by(grpo.validation)]
    checkpoints = session.checkpoints(grpo.name, grpo.keep_last, kept)
    state = await checkpoints.resume()
    archived = await run_in_daemon_thread(
        _load_reusable_groups, config, session.run_dir, run, state, session.attempt
    )
    await session.preflight(
        grpo.name,
        prompt=await longest_prompt(config, samples, session.prompts),
        response=config.rollout.max_response_length,
        group_size=config.rollout.group_size,
        groups_per_update=grpo.groups_per_update or grpo.groups_per_step,
        refers=grpo.loss.needs_reference,
    )
    await session.publish(run.first_step + state.step)
    parts = _parts(session, run, state, checkpoints, archived)
    sampler = Sampler(samples, config.seed, balanced=grpo.class_balanced)
    writer = TrainingGroupWriter(
        session.writer, grpo.name, archived, config.rollout, seed=config.training_seed
    )
    await parts.cache_hits.of_step()  # what earlier stages asked for is no hit of the first step
    with progress_bar(grpo.name, grpo.num_steps) as bar:
        bar.resume(state.step)
        learner = GrpoLearner(run, parts, bar, state.step)
        async with parts.validation as validation:
            validation.start(state.step)
            count, steps = grpo.groups_per_step, learner.steps()
            train = train_loop(parts.buffer, learner, steps, count, filter_of(grpo))
            loops = range(parts.buffer.capacity)
            await run_until_trained(
                train, [rollout_loop(sampler.at, writer, parts.buffer) for _ in loops]
            )
    parts.learning.refuse({}, is_last=True)
    begin = partial(session.start_training, run.start.model_dir, grpo.optim, grpo.loss)
    left_step = await validation.restore_best(learner.step, checkpoints, begin)
    return validation.result(learner.step, left_step)


def _parts(
    session: Session,
    run: StageRun,
    state: LoopState,
    checkpoints: Checkpoints,
    archived: ArchivedGroups,
) -> GrpoParts:
    """The parts of a run's training that goes on from ``state``."""
    grpo, config = run.of(GrpoStage), session.config
    # and the places of replaced groups; those that lie in the archive are among them
    num_places = (grpo.num_steps - state.step) * grpo.groups_per_step
    capacity = (grpo.max_staleness + 1) * grpo.groups_per_step
    guards = HackingGuards(
        config.reward,
        config.prompt_set,
        session.renderer,
        grpo.name,
        state.guards,
        groups_per_step=grpo.groups_per_step,
    )
    validation = Validation(
        grpo.name,
        grpo.validation,
        grpo_validator(session, run),
        session.metrics,
        last_step=grpo.num_steps,
        done=state.validations,
        also=grpo.keep_best_by,
    )
    return GrpoParts(
        learner=session.learner,
        publish=session.publish,
        turns=Turns(config, session.rollouts, session.learner),
        buffer=GroupBuffer(capacity, state.next_index, num_places),
        archived=archived,
        archive=session.archive,
        checkpoints=checkpoints,
        scorer=session.scorer,
        guards=guards,
        learning=_learning_guards(grpo, config.guards, state.learning),
        cache_hits=CacheHitRates(session.rollouts.cache_counts, session.writer.token_counts),
        decoded_clips=session.decoded_clips,
        quarantine=session.quarantine,
        validation=validation,
        metrics=session.metrics,
        max_failure_frac=config.reward.max_failure_frac,
        deterministic=config.deterministic,
    )


def _learning_guards(grpo: GrpoStage, limits: GuardsConfig, state: LearningState) -> LearningGuards:
    return LearningGuards(
        grpo.name,
        limits,
        state,
        num_updates=grpo.num_steps * grpo.updates_per_step,
        groups_per_step=grpo.groups_per_step,
    )


def _load_reusable_groups(
    config: RunConfig, run_dir: RunDir, run: StageRun, state: LoopState, attempt: int
) -> ArchivedGroups:
    """Read the reusable groups. Raises ConfigError if a deterministic run has lost some."""
    grpo = run.of(GrpoStage)
    reusable = reusable_groups(config, run_dir, grpo, run.first_step, state, attempt, run.archived)
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
            f"{run.name}: {len(reusable.usable)} archived groups are taken up, "
            f"{reusable.num_others} written anew"
        )
    return ArchivedGroups.of(run_dir.archive, reusable)


def filter_of(grpo: GrpoConfig) -> DynamicSampling | None:
    """The recipe's dynamic sampling; None if it is off."""
    if not grpo.filter_groups.enable:
        return None
    return DynamicSampling(
        has_signal=lambda group: has_signal(group, grpo.loss),
        max_groups=grpo.filter_groups.max_num_gen_batches * grpo.groups_per_step,
    )
