"""Penalties for length and repetition, whatever the answer.

overlong: with y tokens, limit L and cache C,
    r = 0 if y <= L - C;  ((L - C) - y) / C if L - C < y <= L;  -1 if y > L
Soft overlong punishment, DAPO (arXiv 2503.14476), equation 13; verl's ``overlong_buffer``.

repetition: r = max_penalty (1 - distinct n-grams / all n-grams), lower-cased words.
Yeo et al. (arXiv 2502.03373), appendix C.2, in the form of open-r1's
``get_repetition_penalty_reward``: one figure per completion instead of one per token.
"""

from itertools import islice
from typing import Literal, Self

from pydantic import Field, model_validator

from reward.builtins.params import Params
from reward.context import RewardContext
from wire.errors import ConfigError
from wire.labels import LabelSet


class OverlongParams(Params):
    """Parameters of ``overlong``: the length from which a completion is punished.

    Example:
        OverlongParams(cache_length=512)
    """

    max_response_length: int | None = Field(default=None, gt=0)
    """L, in tokens; none: the limit under which the completion was sampled."""
    cache_length: int = Field(gt=0)
    """C: the last tokens before L over which the punishment grows; verl's overlong_buffer.len."""

    @model_validator(mode="after")
    def _cache_within_limit(self) -> Self:
        limit = self.max_response_length
        if limit is not None and self.cache_length > limit:
            raise ValueError(
                f"cache_length {self.cache_length} is more than max_response_length {limit}; "
                "choose a part of it"
            )
        return self

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError if the cache is longer than the limit that holds."""
        limit = self.max_response_length or max_response_length
        if limit is not None and self.cache_length > limit:
            raise ConfigError(
                f"cache_length {self.cache_length} is more than the limit of {limit} tokens; "
                "choose a part of it"
            )


def overlong(
    completion: str,
    label: str,
    context: RewardContext,
    *,
    max_response_length: int | None,
    cache_length: int,
) -> float | None:
    """0 down to -1 over the last ``cache_length`` tokens. None without a limit to be over."""
    limit = max_response_length or context.max_response_length
    if limit is None:
        return None
    return overlong_punishment(context.num_tokens, limit, cache_length)


def overlong_punishment(num_tokens: int, max_response_length: int, cache_length: int) -> float:
    """DAPO's equation 13; in [-1, 0]."""
    free = max_response_length - cache_length
    if num_tokens <= free:
        return 0.0
    return max(-1.0, (free - num_tokens) / cache_length)


class RepetitionParams(Params):
    """Parameters of ``repetition``: which n-grams count, and the worst penalty.

    Example:
        RepetitionParams(ngram_size=4, max_penalty=-0.5)
    """

    ngram_size: int = Field(default=3, ge=1, le=100)
    """Units that must repeat together."""
    max_penalty: float = Field(default=-1.0, le=0, allow_inf_nan=False)
    """The value that a completion of one n-gram over and over comes near."""
    unit: Literal["word", "character"] = "word"
    """``character`` for languages that put no spaces between words."""


def repetition(
    completion: str,
    label: str,
    context: RewardContext,
    *,
    ngram_size: int,
    max_penalty: float,
    unit: Literal["word", "character"],
) -> float:
    """Between ``max_penalty`` and 0; 0 for a completion shorter than one n-gram."""
    words = completion.lower().split()
    units = words if unit == "word" else "".join(words)
    total = len(units) - ngram_size + 1
    if total < 1:
        return 0.0
    columns = [islice(units, start, None) for start in range(ngram_size)]
    distinct = len(set(zip(*columns, strict=False)))  # ends with the shortest: the last column
    return max_penalty * (1 - distinct / total) + 0.0  # + 0.0: no minus zero in the logs
