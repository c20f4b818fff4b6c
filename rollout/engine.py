"""Protocol of an engine, and what goes in and out of it: traces out, weights in. Knows no vLLM.

prompt ids + processed clip + Sampling -> Engine -> Generation: token ids + logprobs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.label_codes import Code
from rollout.lora import Adapter
from video.processor import ProcessedClip
from wire.types import FinishReason, PolicyVersion, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings of one group of answers."""

    n: int
    temperature: float
    for_training: bool = False
    """Logprobs are those of the distribution at ``temperature``, which training needs; else at
    temperature 1."""
    max_tokens: int
    seed: int | None = None
    """Seed of the first answer, the next number of the next; none: the engine draws from its own
    random state, which a GPU does for all requests at once and not one by one."""
    turn: int = 0
    """Turn of the request, where the worker is fixed (a deterministic run): worker ``turn`` modulo
    their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as the engine wrote it; text and version are added by the worker."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: FinishReason
    versions: tuple[tuple[int, PolicyVersion | None], ...] = ()
    """First token of each version that wrote it, in order; None: the weights that the engine
    started with. Empty where the engine does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """All answers to one prompt."""

    answers: tuple[Answer, ...]
    num_cached_tokens: int
    """Prompt tokens that came from the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDigests:
    """Digests of the weights of one GPU (or CPU) of an engine after an update."""

    loaded: dict[str, int]
    """Digest of each tensor that the update gave the model, by the learner's name."""
    resident: int
    """Digest of all parameters that the model has, as the engine keeps them."""


class AnsweringEngine(Protocol):
    """Protocol of an engine whose weights stay as they are, as a classifier in use has it."""

    @property
    def is_alive(self) -> bool:
        """False once the engine's process has ended and can answer nothing any more."""

    async def generate(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        sampling: Sampling,
        adapter: Adapter | None = None,
    ) -> Generation:
        """Draw ``sampling.n`` answers. Raises GenerationError, DeadlineExceeded."""

    async def label_logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        codes: Sequence[Code],
        adapter: Adapter | None = None,
    ) -> list[float]:
        """Logprob (nats, at temperature 1) of each code after a prompt: the sum over its tokens,
        whatever an answer may not hold. Raises GenerationError, DeadlineExceeded."""


class Engine(AnsweringEngine, Protocol):
    """Protocol of an engine, as a rollout worker uses it."""

    async def logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        response: Sequence[int],
        adapter: Adapter | None = None,
    ) -> list[float]:
        """Logprob of each token of a given response. Raises GenerationError, DeadlineExceeded."""

    async def weight_digests(self) -> list[WeightDigests]:
        """Digests of the weights after an update, of each GPU. Raises WeightUpdateError,
        DeadlineExceeded."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load an adapter beside those it holds. Raises WeightUpdateError, DeadlineExceeded; then
        nothing changed."""

    async def drop_adapter(self, adapter: Adapter) -> None:
        """Drop an adapter that no request uses. Raises WeightUpdateError, DeadlineExceeded."""

    async def sleep(self) -> None:
        """Free the GPU's memory until an update or an adapter wakes the engine; meanwhile it
        answers nothing. Raises WeightUpdateError, also while a request runs; DeadlineExceeded."""

    async def begin_update(self) -> None:
        """Open a weight update, also after one that failed. Raises WeightUpdateError,
        DeadlineExceeded."""

    async def update_weights(self, update: dict[str, Any]) -> None:
        """Load one chunk of weights. Raises WeightUpdateError, DeadlineExceeded."""

    async def finish_update(self, version: PolicyVersion) -> None:
        """Close the weight update; what is written from now on is of ``version``. Raises
        WeightUpdateError, DeadlineExceeded; the engine then answers nothing."""
