"""Learner of a fit without a run: its ranks, started alone, and prompts made in this process.

recipe -> Ray -> learner ranks -> LearnerSession (starts trainings, renders prompts) -> stopped

No rollout engine starts: the traces are there.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.actors import placement
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.shared_paths import require_shared
from cluster.config.recipe import RunConfig
from cluster.driver.progress import console
from cluster.inputs.preflight import open_cache, open_model
from cluster.session import preflight
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from rollout.prompt import VerdictPrompt
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from video.cache import ClipStore
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from wire.daemon_thread import run_in_daemon_thread
from wire.types import Failure, Prompt, Sample


class LearnerSession:
    """The learner of fits, and what renders their prompts: as a run's Session, without engines."""

    def __init__(self, config: RunConfig, learner: LearnerGroup, renderer: Renderer) -> None:
        self.config, self.learner, self.renderer = config, learner, renderer
        clips = ClipStore(cache_folder(config.video), ClipProcessor(config.model), config.video)
        self._inputs = PromptInputs(renderer, clips, config.prompt_set)

    async def start_training(
        self,
        model_dir: Path,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Load a model into the learner, with a fresh optimiser."""
        await self.learner.begin(str(model_dir), optim, loss, lora)

    async def preflight(
        self, name: str, *, prompt: int, response: int, group_size: int, groups_per_update: int
    ) -> None:
        """Try a training's largest batch. Raises UserError if it does not fit."""
        await preflight(
            self.config,
            self.learner,
            name,
            prompt=prompt,
            response=response,
            group_size=group_size,
            groups_per_update=groups_per_update,
        )

    async def verdict_prompts(self, traces: list[tuple[Sample, str]]) -> list[Prompt | Failure]:
        """Prompts that ask for a verdict on traces, in their order."""
        asks = [(sample, VerdictPrompt(trace)) for sample, trace in traces]
        return await self._inputs.all_prompts(asks)

    async def label_prompts(self, samples: list[Sample]) -> list[Prompt | Failure]:
        """Prompts that ask for the label, given the video alone, in their order."""
        return await self._inputs.all_prompts([(sample, "label") for sample in samples])


@asynccontextmanager
async def open_learner(
    config: RunConfig, folder: Path, models: Collection[Path] = (), *, debug: bool = False
) -> AsyncIterator[LearnerSession]:
    """Start the learner ranks of a recipe, and stop them after the block. ``folder``: where fits
    write; ``models``: directories that ranks will load, beside the recipe's. Raises UserError."""
    renderer = await run_in_daemon_thread(open_model, config)
    await run_in_daemon_thread(open_cache, config.video)
    folder.mkdir(parents=True, exist_ok=True)
    async with placement.reserved(config, debug=debug, engines=False) as seats:
        timeout_s = config.cluster.start_timeout_s
        await require_shared(seats, folder, {config.model, *models}, [], timeout_s)
        learner = LearnerGroup(config, seats.ranks)
        try:
            console.print(f"starting {config.learner.num_ranks} learner rank(s)")
            await learner.start()
            yield LearnerSession(config, learner, renderer)
        finally:
            learner.stop()
