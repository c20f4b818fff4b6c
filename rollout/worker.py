"""One rollout worker: a sample in, a group of answers out, under one version of the weights.

Sample -> clip (cache) -> prompt -> engine -> Completions          or a typed Failure
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rollout.adapters import Adapters
from rollout.engine import Answer, Engine, Generation, Sampling, WeightDigests
from rollout.prompt import PromptKind, Prompts
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from video.cache import ClipStore
from wire.adapters import AdapterFiles
from wire.errors import DeadlineExceeded, GenerationError
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    PolicyVersion,
    Prompt,
    Sample,
    VersionChange,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Result of a worker for one sample: completions, or the failure that took their place.

    Example:
        Rollout(prompt=prompt, completions=(completion,) * 8, failures=(),
                policy_version=PolicyVersion(attempt=0, step=7), num_cached_tokens=96)
    """

    prompt: Prompt | None
    completions: tuple[Completion, ...]
    failures: tuple[Failure, ...]
    policy_version: PolicyVersion
    num_cached_tokens: int = 0


class RolloutWorker:
    """One rollout worker. ``version`` is that of the weights last loaded whole; a trace written
    with an adapter has the adapter's."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        renderer: Renderer,
        clips: ClipStore,
        prompts: Prompts,
        version: PolicyVersion,
    ) -> None:
        self._name = name
        self._engine = engine
        self._adapters = Adapters(engine)
        self._renderer = renderer
        self._clips = clips
        self._inputs = PromptInputs(renderer, clips, prompts)
        self._version = self._first_version = version
        # one at a time: what is asked for now finds a decoder free
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="prepare-clips")

    async def answer(
        self,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        ask: PromptKind = "trace",
    ) -> Rollout:
        """Write ``sampling.n`` answers about a sample's clip to the prompt that ``ask`` says.
        ``upcoming``: a clip that will be asked for soon; it is made ready meanwhile.

        A bad clip, prompt or request is a Failure. Raises GenerationError only if the engine's
        process has ended: then this worker is of no more use.
        """
        version = self._version  # of before: a failure that an update overtakes is the older's
        model_input = await self._inputs.of(sample, ask)
        if upcoming is not None:
            self._ahead.submit(self._clips.prepare, upcoming)
        if isinstance(model_input, Failure):
            return _failed(model_input, version)
        prompt, clip = model_input
        try:
            async with self._adapters.newest() as adapter:
                version = adapter.version if adapter else version
                generation = await self._engine.generate(prompt, clip, sampling, adapter)
                if adapter is not None:
                    generation = _by_one_version(generation)
        except (GenerationError, DeadlineExceeded) as error:
            if not self._engine.is_alive:
                raise GenerationError(f"{self._name} has lost its engine: {error}") from error
            failure = Failure(kind=FailureKind.GENERATION, culprit=self._name, reason=str(error))
            return _failed(failure, version)
        temperature = sampling.temperature if sampling.for_training else 1.0
        return self._rollout(prompt, generation, version, temperature)

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        """The prompt that asks for a trace, a label or a verdict; caches the clip."""
        return await self._inputs.prompt(sample, ask)

    async def logprobs(
        self,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float]:
        """Logprobs of a given response: the parity probe. ``adapter_of``: with the adapter of that
        version, which need not serve yet; none: with the one that serves, if any."""
        clip = await self._inputs.clip(video)
        held = self._adapters.of(adapter_of) if adapter_of else self._adapters.newest()
        async with held as adapter:
            return await self._engine.logprobs(prompt, clip, response, adapter)

    async def sleep(self) -> None:
        """Free the engine's GPU memory until new weights wake it."""
        await self._engine.sleep()

    async def begin_update(self) -> None:
        """Pause, and get ready for new weights."""
        await self._engine.begin_update()

    async def update_weights(self, update: dict[str, Any]) -> None:
        """Load one chunk of new weights."""
        await self._engine.update_weights(update)

    async def finish_update(self, version: PolicyVersion) -> None:
        """Forget what the old weights computed, and answer under the new version."""
        await self._engine.finish_update(version)
        self._version = version

    async def weight_digests(self) -> list[WeightDigests]:
        """Digests of the engine's weights after an update."""
        return await self._engine.weight_digests()

    async def load_adapter(self, version: PolicyVersion, files: AdapterFiles) -> None:
        """Load a version of the policy as an adapter; requests go on with the adapters they
        have."""
        await self._adapters.load(version, files)

    async def serve_adapter(self, version: PolicyVersion) -> None:
        """Answer new requests with a version that is loaded."""
        await self._adapters.serve(version)
        self._version = version

    def _rollout(
        self, prompt: Prompt, generation: Generation, version: PolicyVersion, temperature: float
    ) -> Rollout:
        completions = tuple(
            self._completion(answer, version, temperature) for answer in generation.answers
        )
        return Rollout(
            prompt=prompt,
            completions=completions,
            failures=(),
            policy_version=min(one.policy_version for one in completions),
            num_cached_tokens=generation.num_cached_tokens,
        )

    def _completion(self, answer: Answer, version: PolicyVersion, temperature: float) -> Completion:
        """``version``: where the engine does not say which version wrote which token."""
        first, *changes = self._version_spans(answer) or [VersionChange(0, version)]
        return Completion(
            token_ids=TokenIds(answer.token_ids),
            logprobs=Logprobs(answer.logprobs),
            text=self._renderer.text(answer.token_ids),
            finish_reason=answer.finish_reason,
            policy_version=first.version,
            logprobs_temperature=temperature,
            version_changes=tuple(changes),
        )

    def _version_spans(self, answer: Answer) -> list[VersionChange]:
        """The versions that wrote an answer, by first token. The same weights sent again make no
        new one."""
        named = [VersionChange(start, one or self._first_version) for start, one in answer.versions]
        changes = [span for before, span in pairwise(named) if span.version != before.version]
        return [*named[:1], *changes]


def _by_one_version(generation: Generation) -> Generation:
    """The engine's weights are the model's below an adapter: the adapter alone has a version."""
    answers = tuple(replace(answer, versions=()) for answer in generation.answers)
    return replace(generation, answers=answers)


def _failed(failure: Failure, version: PolicyVersion) -> Rollout:
    return Rollout(prompt=None, completions=(), failures=(failure,), policy_version=version)
