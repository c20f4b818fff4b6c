"""Group writer: rollout, reward and archive in one call. A sample in, an archived group of judged
traces out."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cluster.actors.deadlines import DISK_S, with_deadline
from cluster.actors.rollout_pool import RolloutPool
from cluster.config.fleet import RolloutFailureConfig
from cluster.metrics.events import Events, NoEvents
from cluster.metrics.timeline import ARCHIVE, REWARD, NoTimeline, Timeline, span
from cluster.pool.dispatch import RequestFailed
from cluster.pool.failure_budget import FleetFailures
from reward.scorer import Scorer
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from rollout.worker import Rollout
from video.address import View, with_view
from video.quarantine import Quarantine
from wire.archive.archive import Archive
from wire.types import (
    Failure,
    FailureKind,
    PolicyVersion,
    Purpose,
    Sample,
    Score,
    Trace,
    TraceGroup,
    stable_seed,
)

_APPENDS = ThreadPoolExecutor(32, thread_name_prefix="append-group")
"""Groups that may share a write to the disk; an event loop's own threads are few, and others'."""


_NOT_JUDGED = Failure(
    kind=FailureKind.NOT_APPLICABLE,
    culprit="reward",
    reason="no reward judges rationales and captions",
)
"""Outcome of each text that no reward judges: it has none, rather than one of zero."""


class GroupWriter:
    """Writes groups of judged traces. A group is in the archive, on disk, before it is returned."""

    def __init__(
        self,
        rollouts: RolloutPool,
        scorer: Scorer,
        archive: Archive,
        quarantine: Quarantine,
        version: Callable[[], PolicyVersion],
        prompt_text: Callable[[Sample], str],
        timeline: Timeline | None = None,
        failure: RolloutFailureConfig | None = None,
        events: Events | None = None,
    ) -> None:
        self._timeline, self._events = timeline or NoTimeline(), events or NoEvents()
        failure = failure or RolloutFailureConfig()
        self._max_data_attempts = failure.max_data_attempts
        self._data_failures: Counter[str] = Counter()
        limit = failure.max_consecutive_dropped
        self._fleet = FleetFailures(limit) if limit else None
        self._rollouts, self._scorer, self._prompt_text = rollouts, scorer, prompt_text
        self._archive, self._quarantine, self._version = archive, quarantine, version
        self.token_counts: Counter[str] = Counter()
        """Prompt tokens so far, and how many of them came from an engine's prefix cache."""

    async def write(
        self,
        sample: Sample,
        sampling: Sampling,
        purpose: Purpose,
        group_id: str,
        upcoming: Sample | None = None,
        ask: PromptKind = "trace",
    ) -> TraceGroup:
        """Write one clip's group, of answers to the prompt that ``ask`` says. A bad clip or request
        makes a group of failures, archived too. ``upcoming``: a sample that follows soon; its clip
        is prepared meanwhile. Raises TooManyFailures once there are more bad clips than the recipe
        allows."""
        rollout = self._refused(sample)
        ahead = self._worth_preparing(upcoming)
        if rollout is None and purpose is Purpose.TRAIN and self._scorer.wants_shuffled(sample):
            sample, rollout = await self._contrast(sample, sampling, ahead)
        elif rollout is None and purpose is Purpose.VALIDATION:
            # not counted: the counts are those of the training that goes on meanwhile
            rollout = await self._answer(sample, sampling, ahead)
        elif rollout is None:
            rollout = await self._ask(sample, sampling, ahead, ask)
        outcomes: Sequence[Score | Failure] = ()
        if rollout.completions and purpose is Purpose.RATIONALE:
            outcomes = (_NOT_JUDGED,) * len(rollout.completions)
        elif rollout.completions:
            prompt = self._prompt_text(sample)
            with span(self._timeline, REWARD, "score", group=group_id):
                outcomes = await self._scorer.score(sample, rollout.completions, prompt)
        self._charge(sample, rollout)
        group = _join(sample, rollout, outcomes, purpose, group_id)
        with span(self._timeline, ARCHIVE, "append", group=group_id):
            loop = asyncio.get_running_loop()
            append = loop.run_in_executor(_APPENDS, self._archive.append, group)
            await with_deadline(append, DISK_S, f"the disk to archive group {group_id}")
        self._note_end(group)
        self._quarantine.refuse_too_many()
        return group

    def _charge(self, sample: Sample, rollout: Rollout) -> None:
        """Charge the sample with what its data failed. A sample that has used up its tries is
        quarantined."""
        for failure in rollout.failures:
            if failure.kind.is_fault_of_data:
                self._data_failures[sample.video] += 1
                if self._data_failures[sample.video] >= self._max_data_attempts:
                    self._quarantine.add(sample.video, sample.id, failure.reason)

    def _note_end(self, group: TraceGroup) -> None:
        """Note an archived group that the fleet dropped. Raises TooManyFailures for too many in a
        row."""
        if group.is_dropped:
            failure = group.failures[0]
            self._events.note(
                *("group_dropped", group.group_id),
                cause=failure.kind.value,
                culprit=failure.culprit,
                why=failure.reason,
            )
            if self._fleet:
                self._fleet.failed(group.group_id, failure.reason)
        elif group.traces and self._fleet:
            self._fleet.answered()

    async def _ask(
        self,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        ask: PromptKind = "trace",
    ) -> Rollout:
        rollout = await self._answer(sample, sampling, upcoming, ask)
        if rollout.prompt is not None:
            self.token_counts["prompt_tokens"] += len(rollout.prompt.token_ids)
            self.token_counts["cached_prompt_tokens"] += rollout.num_cached_tokens
        return rollout

    async def _answer(
        self,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        ask: PromptKind = "trace",
    ) -> Rollout:
        """Answer of the workers; a failed rollout, if they failed the request for good."""
        try:
            return await self._rollouts.answer(sample, sampling, upcoming, ask)
        except RequestFailed as error:
            kind, culprit = FailureKind.GENERATION, error.worker or "rollout workers"
            return self._failed(Failure(kind=kind, culprit=culprit, reason=str(error)))

    async def _contrast(
        self, sample: Sample, sampling: Sampling, upcoming: str | None
    ) -> tuple[Sample, Rollout]:
        """Write T-GRPO's two groups (reward/builtins/temporal.py): traces of the clip as it is, and
        half as many of its shuffled frames, whose outcome is added to the sample.

        The shuffled traces are not archived. If there are none, their failure joins the group's
        failures, and the reward term does not apply.
        """
        seed = None if sampling.seed is None else stable_seed("shuffled", sampling.seed)
        half = replace(sampling, n=max(1, sampling.n // 2), seed=seed)
        rollout, shuffled = await asyncio.gather(
            self._ask(sample, sampling, upcoming),
            self._ask(with_view(sample, View.SHUFFLED), half),
        )
        if shuffled.completions:
            sample = self._scorer.with_shuffled(sample, shuffled.completions)
        elif rollout.completions:
            rollout = replace(rollout, failures=rollout.failures + shuffled.failures)
        return sample, rollout

    def _worth_preparing(self, sample: Sample | None) -> str | None:
        return None if sample is None or sample.video in self._quarantine else sample.video

    def _refused(self, sample: Sample) -> Rollout | None:
        """The failed rollout of a quarantined clip, which is not decoded again; None for others."""
        if sample.video not in self._quarantine:
            return None
        failure = Failure(
            kind=FailureKind.DECODE,
            culprit=sample.video,
            reason=self._quarantine.reason(sample.video),
        )
        return self._failed(failure)

    def _failed(self, failure: Failure) -> Rollout:
        version = self._version()
        return Rollout(prompt=None, completions=(), failures=(failure,), policy_version=version)


def _join(
    sample: Sample,
    rollout: Rollout,
    outcomes: Sequence[Score | Failure],
    purpose: Purpose,
    group_id: str,
) -> TraceGroup:
    traces = tuple(
        Trace(completion=completion, outcome=outcome)
        for completion, outcome in zip(rollout.completions, outcomes, strict=True)
    )
    return TraceGroup(
        group_id=group_id,
        sample=sample,
        purpose=purpose,
        policy_version=rollout.policy_version,
        prompt=rollout.prompt,
        traces=traces,
        failures=rollout.failures,
    )
