"""Session of a run: engines, learner and all else that stages need, started once and shared by all
stages.

    recipe -> checks -> Ray -> rollout engines + learner ranks -> (stages) -> all stopped

The checks come first: a mistake in the recipe, the manifest or a clip is reported before any
engine starts.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.actors import placement
from cluster.actors.clip_homes import homes_of
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.placement import Reservation
from cluster.actors.reward_nodes import reward_nodes
from cluster.actors.rollout_pool import RolloutPool
from cluster.actors.shared_paths import require_shared
from cluster.config.recipe import RunConfig
from cluster.config.stages import KEEP_LAST
from cluster.driver.progress import console
from cluster.group_writer import GroupWriter
from cluster.inputs.narration import narration_of
from cluster.inputs.preflight import check
from cluster.inputs.quarantine import open_quarantine
from cluster.inputs.samples import SampleSplits
from cluster.inputs.scorer import columns_of, make_scorer, prompt_text
from cluster.metrics.decoded_clips import DecodedClips
from cluster.metrics.event_spans import EventSpans
from cluster.metrics.events import EventLog, Events, NoEvents, read_events
from cluster.metrics.fleet_figures import FleetFigures
from cluster.metrics.metrics_log import MetricsLog
from cluster.metrics.sinks import open_metrics
from cluster.metrics.step_timelines import StepTimelines
from cluster.metrics.timeline import NoTimeline, Timeline
from cluster.resume.attempts import describe_attempt, note_attempt
from cluster.resume.checkpoints import Checkpoints, KeepBest
from cluster.run_dir import RunDir
from cluster.weight_sync.adapter import AdapterSync
from cluster.weight_sync.full_weights import WeightSync
from cluster.weight_sync.parity_probe import num_probe_tokens, probe_row, probe_text
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.rows import supervised_row
from reward.scorer import Scorer
from rollout.prompt import PromptKind, VerdictPrompt
from rollout.render import Renderer
from video.address import Address
from video.quarantine import Quarantine
from video.semantic_tokens.description import TokenizerDescription
from wire.archive.archive import Archive, next_attempt
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.types import Failure, FailureKind, PolicyVersion, Prompt, Sample, Split

log = logging.getLogger(__name__)

_PROMPTS_AT_ONCE = 1024
_TRIED_CLIPS = 8  # on each node, before engines start


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResources:
    """What a run reads and writes, opened: everything of a session but Ray's actors."""

    config: RunConfig
    run_dir: RunDir
    data: SampleSplits
    renderer: Renderer
    attempt: int
    """Number of this start of the run."""
    scorer: Scorer
    archive: Archive
    quarantine: Quarantine
    metrics: MetricsLog
    events: Events = field(default_factory=NoEvents)
    timeline: Timeline = field(default_factory=NoTimeline)
    fleet_figures: FleetFigures = field(default_factory=FleetFigures)


class Session:
    """The running engines, learner, scorer, archive and logs that the stages of a run share."""

    def __init__(
        self, resources: RunResources, rollouts: RolloutPool, learner: LearnerGroup, step: int
    ) -> None:
        """``step``: version step of the weights in the engines."""
        config, scorer = resources.config, resources.scorer
        self.config, self.run_dir, self._videos = config, resources.run_dir, resources.data
        self.data = self._videos
        """Samples as the present stage shows their clips."""
        self.renderer, self.attempt = resources.renderer, resources.attempt
        self.rollouts, self.learner = rollouts, learner
        self.decoded_clips = DecodedClips(rollouts.cache_counts)
        archive, quarantine = resources.archive, resources.quarantine
        self.archive, self.quarantine, self.metrics = archive, quarantine, resources.metrics
        self.events, self.timeline = resources.events, resources.timeline
        self.fleet_figures = resources.fleet_figures
        self._weight_sync: WeightSync | AdapterSync | None = None
        self.engine_weights_step = step
        """Version step of the weights in the engines."""
        self.scorer = scorer
        self.writer = GroupWriter(
            *(rollouts, scorer, archive, quarantine),
            lambda: self.version(self.engine_weights_step),
            partial(prompt_text, config),
            self.timeline,
            config.rollout_failure,
            self.events,
        )

    async def ensure_engine_weights(self, model_dir: Path, step: int) -> None:
        """Load a stage's start weights into the engines, unless these have them already."""
        if self.engine_weights_step != step:
            await self.start_training(model_dir, OptimConfig())
            await self.publish(step)

    async def show(self, tokenizer: str | None) -> None:
        """Show clips as narratives of a finished stage's tokenizer from now on; None: as videos."""
        if tokenizer is None:
            self.data = self._videos
            return
        narration = narration_of(self.config, self.run_dir.path, tokenizer)
        await self.learner.use_tokens(narration)
        await self.rollouts.use_tokens(narration)
        version = TokenizerDescription.read(narration.folder).version
        self.data = self._videos.shown_as(version)

    def version(self, step: int) -> PolicyVersion:
        """Policy version of a step in this attempt; differs from the versions of earlier
        attempts."""
        return PolicyVersion(attempt=self.attempt, step=step)

    async def start_training(
        self,
        model_dir: Path,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Start a stage's training: the learner loads a model, with a fresh optimiser. The first
        call also connects the learner to the engines."""
        await self.learner.begin(str(model_dir), optim, loss, lora)
        await self.rollouts.use_tower(await self.learner.tower())
        if self._weight_sync is None:
            await self.learner.connect(self.rollouts.client())
            self._weight_sync = await self._make_weight_sync()
        if isinstance(self._weight_sync, AdapterSync):
            self._weight_sync.begin()

    def checkpoints(
        self, stage: str, keep_last: int = KEEP_LAST, keep_best: Sequence[KeepBest] = ()
    ) -> Checkpoints:
        """Checkpoints of a stage, of the learner's state."""
        folder = self.run_dir.checkpoints(stage)
        return Checkpoints(
            folder,
            self.learner,
            self.archive,
            self.attempt,
            keep_last,
            keep_best,
            prompts=self.config.prompt_set.versions,
        )

    async def preflight(
        self,
        name: str,
        *,
        prompt: int,
        response: int,
        group_size: int,
        groups_per_update: int,
        refers: bool = False,
    ) -> None:
        """Print the memory that a stage's largest batch takes, before its first update;
        :meth:`start_training` comes first. Raises UserError that says what to lower if it does not
        fit."""
        await preflight(
            self.config,
            self.learner,
            name,
            refers=refers,
            prompt=prompt,
            response=response,
            group_size=group_size,
            groups_per_update=groups_per_update,
        )

    async def publish(self, step: int) -> dict[str, float]:
        """Send the learner's weights to every engine, proven by the parity probe. Returns
        metrics."""
        assert self._weight_sync is not None, "start_training() comes first"
        report = await self._weight_sync.publish(self.version(step))
        self.engine_weights_step = step
        return {
            "parity/probe_max_logprob_diff": report.max_logprob_diff,
            "rollout/num_out_of_service": float(report.num_out_of_service),
            **report.figures,
        }

    async def prompts(self, samples: Sequence[Sample]) -> list[tuple[Sample, Prompt]]:
        """Trace prompts of samples whose clips can be read; unreadable clips are quarantined.
        Raises DataError if none can."""
        return [pair async for block in self.prompt_blocks(samples) for pair in block]

    async def prompt_blocks(
        self, samples: Sequence[Sample], ask: PromptKind = "trace"
    ) -> AsyncIterator[list[tuple[Sample, Prompt]]]:
        """Blocks of :meth:`prompts`, of another kind where ``ask`` says so, for samples whose
        prompts need not be in memory all at once."""
        num_usable = 0
        for start in range(0, len(samples), _PROMPTS_AT_ONCE):
            part = samples[start : start + _PROMPTS_AT_ONCE]
            prompts = await self._ask([(sample, ask) for sample in part])
            usable = []
            for sample, prompt in zip(part, prompts, strict=True):
                if isinstance(prompt, Prompt):
                    usable.append((sample, prompt))
                elif prompt.kind is FailureKind.DECODE:
                    self.quarantine.add(sample.video, sample.id, prompt.reason)
                    self.quarantine.refuse_too_many()
            num_usable += len(usable)
            yield usable
        if not num_usable:
            raise DataError(
                f"none of {len(samples)} clips could be read; see "
                f"{self.run_dir.path}/quarantine.jsonl"
            )

    async def verdict_prompts(self, traces: list[tuple[Sample, str]]) -> list[Prompt | Failure]:
        """The prompts that ask for a verdict on traces, in their order."""
        return await self._ask([(sample, VerdictPrompt(trace)) for sample, trace in traces])

    async def label_prompts(self, samples: list[Sample]) -> list[Prompt | Failure]:
        """Prompts that ask for the label, given the video alone, in their order."""
        return await self._ask([(sample, "label") for sample in samples])

    async def _ask(self, asks: list[tuple[Sample, PromptKind]]) -> list[Prompt | Failure]:
        prompts = [self.rollouts.prompt(sample, ask) for sample, ask in asks]
        return list(await asyncio.gather(*prompts))

    async def _make_weight_sync(self) -> WeightSync | AdapterSync:
        config = self.config
        # always of a video: the engines' towers are proven, too
        sample, prompt = (await self.prompts(self._videos.of(Split.TRAIN)[:8]))[0]
        precisions = config.rollout.dtype, config.learner.dtype
        noise_factor = config.parity.noise_limit(*precisions)
        longest = config.rollout.max_response_length
        if noise_factor is not None:
            longest = num_probe_tokens(longest)
        text = probe_text(config.label_set, long=noise_factor is not None)
        target = self.renderer.target(text)[:longest]
        row = probe_row(supervised_row(prompt, sample.video, target), target)
        limit = config.parity.limit(*precisions)
        kind = AdapterSync if config.learner.hands_off_adapters else WeightSync
        sync = kind(self.rollouts, self.learner, row, limit, noise_factor)
        self.rollouts.use_weights_of(sync)
        return sync


async def preflight(
    config: RunConfig,
    learner: LearnerGroup,
    name: str,
    *,
    prompt: int,
    response: int,
    group_size: int,
    groups_per_update: int,
    refers: bool = False,
) -> None:
    """Print the memory that the largest batch of a learner's training takes, if the recipe asks for
    it. Raises UserError that says what to lower if it does not fit."""
    if not config.learner.preflight:
        return
    largest = LargestBatch(
        prompt_length=prompt,
        response_length=response,
        group_size=group_size,
        num_groups=-(-groups_per_update // config.learner.num_ranks),
        num_frames=config.video.max_frames,
        max_tokens=config.learner.max_tokens_per_batch,
    )
    peak_gb = await learner.preflight(largest, refers)
    console.print(
        f"{name}: the largest batch ({largest.num_tokens} tokens) takes a learner rank to "
        f"{peak_gb:.3g} GB"
    )


def some_clips(samples: Sequence[Sample]) -> list[Path]:
    """A few files of clips, from all parts of the manifest."""
    every = max(1, len(samples) // _TRIED_CLIPS)
    return [Address.parse(sample.video).path for sample in samples[::every][:_TRIED_CLIPS]]


def _open_events(run_dir: RunDir, attempt: int) -> tuple[StepTimelines, FleetFigures, EventLog]:
    """The run's events, and what is kept of them: spans and figures."""
    timeline = StepTimelines(run_dir.path, attempt)
    figures = FleetFigures(read_events(run_dir.path))
    observers = (figures.observe, EventSpans(timeline).observe)
    return timeline, figures, EventLog(run_dir.path, attempt, *observers)


@asynccontextmanager
async def open_session(
    config: RunConfig,
    run_dir: RunDir,
    check_data: Callable[[SampleSplits], None],
    model_dir: Path,
    step: int,
    *,
    debug: bool,
) -> AsyncIterator[Session]:
    """Check the recipe, start a session, and stop it after the block. Engines start with
    ``model_dir`` as version ``step``."""
    data, renderer = await run_in_daemon_thread(check, config, check_data)
    quarantine = await run_in_daemon_thread(open_quarantine, config, run_dir, data)
    async with AsyncExitStack() as stack:
        seats = await stack.enter_async_context(placement.reserved(config, debug=debug))
        start_s = config.cluster.start_timeout_s
        files = run_dir.path, {config.model, model_dir}, some_clips(data.samples), start_s
        await require_shared(seats, *files)
        attempt = next_attempt(run_dir.archive)
        note_attempt(run_dir.path, describe_attempt(config, attempt, run_dir.plan))
        archive = stack.enter_context(Archive(run_dir.archive, attempt))
        metrics = stack.enter_context(open_metrics(config, run_dir.path, attempt))
        timeline, fleet_figures, events = _open_events(run_dir, attempt)
        stack.callback(timeline.close)
        nodes = await stack.enter_async_context(reward_nodes(config, seats))
        scorer = make_scorer(config, columns_of(data.samples), nodes)
        await stack.enter_async_context(scorer)
        homes = homes_of(config, seats)
        learner = LearnerGroup(config, seats.ranks, homes, timeline, events=events)
        prepare = None if homes is None else learner.prepare_clip
        rollouts = RolloutPool(
            *(config, seats.workers, homes, prepare),
            events=events,
            timeline=timeline,
            run_dir=run_dir.path,
            admit=lambda seat: require_shared(Reservation((seat,), ()), *files),
        )
        stack.push_async_callback(rollouts.stop)
        stack.callback(learner.stop)
        console.print(
            f"starting {config.rollout.num_workers} rollout worker(s) and "
            f"{config.learner.num_ranks} learner rank(s)"
        )
        version = PolicyVersion(attempt=attempt, step=step)
        await asyncio.gather(rollouts.start(str(model_dir), version), learner.start())
        resources = RunResources(
            config=config,
            run_dir=run_dir,
            data=data,
            renderer=renderer,
            attempt=attempt,
            scorer=scorer,
            archive=archive,
            quarantine=quarantine,
            metrics=metrics,
            events=events,
            timeline=timeline,
            fleet_figures=fleet_figures,
        )
        yield Session(resources, rollouts, learner, step)
