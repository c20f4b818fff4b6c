"""Inputs of a model for a sample: its prompt's token ids and its processed clip, or why there are
none. No engine is needed.

    Sample -> messages (rollout/prompt.py), clip (cache) -> Renderer -> Prompt, ProcessedClip

Rollout workers, a fit from an archive and the classifier's use make their prompts here, so they are
the same to the token.
"""

import asyncio
from collections.abc import Sequence

from rollout.prompt import PromptKind, Prompts, VerdictPrompt
from rollout.render import PromptTooLong, Renderer
from video.cache import ClipStore
from video.processor import ProcessedClip
from wire.errors import ClipError, ClipUnreachable, DeadlineExceeded
from wire.types import Failure, FailureKind, Prompt, Sample


class PromptInputs:
    """Inputs for prompts of one task about clips of one cache."""

    def __init__(self, renderer: Renderer, clips: ClipStore, prompts: Prompts) -> None:
        self.renderer, self._clips, self._prompts = renderer, clips, prompts

    async def of(self, sample: Sample, ask: PromptKind) -> tuple[Prompt, ProcessedClip] | Failure:
        """The prompt of this kind about a sample, and its clip, which is cached on the way."""
        try:
            clip = await self.clip(sample.video)
        except ClipUnreachable as error:
            return Failure(kind=FailureKind.DISK, culprit=sample.video, reason=str(error))
        except (ClipError, DeadlineExceeded) as error:
            return Failure(kind=FailureKind.DECODE, culprit=sample.video, reason=str(error))
        prompt = self.about(sample, ask, clip)
        return prompt if isinstance(prompt, Failure) else (prompt, clip)

    def about(self, sample: Sample, ask: PromptKind, clip: ProcessedClip) -> Prompt | Failure:
        """The prompt of this kind about a sample whose clip is at hand."""
        messages, version = self._prompts.ask(ask, sample), self._prompts.version(ask)
        # labels are asked of the learner, whose rows the engine's limit does not bind
        bounded = ask != "label" and not isinstance(ask, VerdictPrompt)
        try:
            return self.renderer.prompt(messages, clip, version=version, bounded=bounded)
        except PromptTooLong as error:
            return Failure(kind=FailureKind.PROMPT, culprit=sample.id, reason=str(error))

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """The prompt alone; the clip is cached on the way."""
        model_input = await self.of(sample, ask)
        return model_input if isinstance(model_input, Failure) else model_input[0]

    async def all_prompts(
        self, asks: Sequence[tuple[Sample, PromptKind]]
    ) -> list[Prompt | Failure]:
        """Prompts in the order of ``asks``."""
        return list(await asyncio.gather(*[self.prompt(sample, ask) for sample, ask in asks]))

    async def clip(self, video: str) -> ProcessedClip:
        """The processed clip at an address. Raises ClipError."""
        return await asyncio.get_running_loop().run_in_executor(None, self._clips.get, video)
