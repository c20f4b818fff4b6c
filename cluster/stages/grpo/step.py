"""A step of GRPO: groups in, updates, weights to the engines, archive compacted, metrics logged."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from cluster.actors.deadlines import on_disk
from cluster.actors.learner_group import LearnerGroup
from cluster.buffer import GroupBuffer
from cluster.config.kinds.grpo import GrpoStage
from cluster.driver.progress import Bar
from cluster.loop import StepGroups
from cluster.metrics.decoded_clips import DecodedClips
from cluster.metrics.effective_time import EffectiveTime
from cluster.metrics.events import Events
from cluster.metrics.fleet_figures import FleetFigures
from cluster.metrics.learning_guards import LearningGuards
from cluster.metrics.lost_processes import note_lost_processes
from cluster.metrics.metrics_log import MetricsLog, Stopwatch
from cluster.metrics.timeline import DRIVER, Timeline
from cluster.resume.archived_groups import (
    ArchivedGroups,
)
from cluster.resume.checkpoints import Checkpoints
from cluster.resume.loop_state import LoopState
from cluster.stages.grpo.figures import (
    CacheHitRates,
    filter_figures,
    of_updates,
    throughput,
    trace_figures,
)
from cluster.stages.grpo.heal import TrainedGroups, TrainedStep
from cluster.stages.grpo.step_limits import StepLimits
from cluster.stages.hacking_guards import HackingGuards
from cluster.stages.stage import StageRun
from cluster.stages.validation import Validation
from cluster.weight_sync.turns import Turns
from learner.objective.credit import has_signal, with_advantages
from learner.shared_prefix.rows import Row, grpo_rows
from reward.scorer import Scorer
from reward.stats import summarise
from video.quarantine import Quarantine
from wire.archive.archive import Archive
from wire.types import TraceGroup

Update = tuple[Mapping[str, float], bool]
"""Figures of an update, and whether its rows had signal."""


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
    timeline: Timeline
    workers: Callable[[], Collection[str]]
    """Names of the rollout workers that are there."""
    fleet: FleetFigures
    effective: EffectiveTime
    events: Events
    limits: StepLimits
    deterministic: bool


class GrpoLearner:
    """Trains one GRPO step: rows, updates, weights to the engines, archive compacted, metrics
    logged."""

    def __init__(self, run: StageRun, parts: "GrpoParts", bar: Bar, step: int) -> None:
        self._run, self._grpo, self._parts, self._bar = run, run.of(GrpoStage), parts, bar
        self.step = step
        """The last step that has been trained."""
        self._watch = Stopwatch(parts.timeline)
        self._since = self._waiting_since = time.perf_counter()
        parts.timeline.begin_steps()
        parts.fleet.begin_steps()
        self._waiting = parts.timeline.begin(DRIVER, "gen")
        self._scores: list[float] = []  # of the steps since the last checkpoint
        self._groups = TrainedGroups(parts.archive, run.name)

    async def train(self, taken: StepGroups, step: int) -> None:
        """Train on a step's groups and publish the version after ``step`` (counted from 1)."""
        self._watch.add("gen", time.perf_counter() - self._waiting_since)
        self._parts.timeline.end(self._waiting)
        version = self._run.first_step + step
        figures = await self._observe(taken, version)
        await self._to_learner()
        fresh, num_stale = self._parts.limits.fresh(taken.trained, version - 1)
        figures["off_policy/num_dropped_traces"] = float(num_stale)
        figures |= await self._learn(fresh, step)
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
        self._waiting = self._parts.timeline.begin(DRIVER, "gen")

    def steps(self) -> Iterator[int]:
        """The steps to come, up to the last or to an early stop."""
        while self.step < self._grpo.num_steps and not self._parts.validation.stopped:
            yield self.step + 1

    async def _observe(self, taken: StepGroups, version: int) -> dict[str, float]:
        """Metrics of a step's groups. Raises TooManyFailures."""
        groups = taken.all
        parts = self._parts
        parts.limits.refuse(taken)
        figures = {**summarise(groups), **parts.scorer.take_figures()}
        figures |= trace_figures(groups, version - 1)
        figures |= parts.guards.check_step(groups, figures.get("response_length/mean"))
        figures |= await parts.cache_hits.of_step()
        figures |= await parts.decoded_clips.new()
        note_lost_processes(parts.events, figures, version - self._run.first_step)
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
        again = partial(self._learn_again, TrainedStep.of(groups), step)
        updates = await self._parts.learner.update(partial(self._updates, groups, step), again)
        for figures, signal in updates:
            self._parts.learning.observe_update(figures, has_signal=signal)
        return of_updates([figures for figures, _ in updates])

    async def _learn_again(self, trained: TrainedStep, step: int) -> None:
        """Update the policy as an earlier step did, where a lost learner rank is healed."""
        version = self._run.first_step + self.step
        groups = await self._groups.read(trained, version)
        watch, self._watch = self._watch, Stopwatch()  # its time is that of what waits for the heal
        try:
            await self._updates(groups, step)
        finally:
            self._watch = watch

    async def _updates(self, groups: Sequence[TraceGroup], step: int) -> list[Update]:
        rows = await self._rows(groups)
        if not rows:
            return []
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
            await on_disk("compact the archive", parts.archive.compact, version)
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
                **self._fleet_figures(
                    step, seconds["timing_s/step"], figures.get("weights/lost_s", 0.0)
                ),
                **throughput(taken, seconds, self._grpo.ppo_epochs),
                "rollout/next_place": float(parts.buffer.next_index),
                "rollout/num_taken_up": float(parts.archived.num_taken),
                "quarantine/num_clips": float(len(parts.quarantine)),
                **seconds,
            },
        )
        self._watch = Stopwatch(parts.timeline)

    def _fleet_figures(self, step: int, seconds: float, lost_s: float) -> dict[str, float]:
        """Metrics of the fleet, and of what limited a step of which its update of the weights lost
        ``lost_s``."""
        parts = self._parts
        fleet = parts.fleet.of_step()
        fleet["fleet/lost_s"] = min(seconds, fleet["fleet/lost_s"] + lost_s)
        ratio = parts.effective.ratio(seconds, fleet["fleet/lost_s"], time.time())
        shares = parts.timeline.end_step(self._run.name, step, parts.workers())
        return {**shares, **fleet, "effective_training_time_ratio": ratio}

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

    async def _update(self, rows: list[Row], step: int) -> list[Update]:
        grpo, learner = self._grpo, self._parts.learner
        total = grpo.num_steps * grpo.updates_per_step
        count = grpo.updates_per_epoch
        parts = [rows[k * len(rows) // count : (k + 1) * len(rows) // count] for k in range(count)]
        updates: list[Update] = []
        for number, part in enumerate(parts * grpo.ppo_epochs):
            if part:
                at = (step - 1) * grpo.updates_per_step + number
                rate = grpo.optim.learning_rate_at(at, total)
                update = await learner.train_step(part, "grpo", rate)
                signal = any(one.advantage for row in part for one in row.responses)
                updates.append((update, signal))
        return updates
