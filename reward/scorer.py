"""Completions of one sample -> their scores, in order: built-ins here, user functions in their
processes.

    Sample, Completions -> every term of the reward, side by side -> Score or Failure per completion

A trace any of whose terms failed is a Failure: it is archived and masked, never scored as zero.
"""

import asyncio
import math
from collections.abc import Sequence
from types import TracebackType

from reward.builtin import BUILTINS
from reward.config import RewardConfig, RewardTerm
from reward.context import RewardContext
from reward.runner import PluginRunner, Question
from wire.labels import LabelSet
from wire.types import Completion, Failure, FailureKind, Sample, Score


class Scorer:
    """Judges traces by the terms of a recipe.

    Example:
        async with Scorer(config, labels) as scorer:
            scores = await scorer.score(sample, completions)
    """

    def __init__(self, config: RewardConfig, labels: LabelSet) -> None:
        """Cheap: starts no process. Raises ConfigError if a user function's file is missing."""
        self._terms = config.terms
        self._labels = labels
        self._runners = {
            term.part: PluginRunner(term.part, term.function, term.timeout_s)
            for term in config.terms
            if term.function not in BUILTINS
        }
        self._started = False

    async def start(self) -> None:
        """Load every user function in its process. Raises ConfigError if one cannot be loaded."""
        if not self._started:
            await asyncio.gather(*[runner.start() for runner in self._runners.values()])
            self._started = True

    async def score(
        self, sample: Sample, completions: Sequence[Completion]
    ) -> list[Score | Failure]:
        """One result per completion, in their order.

        Waits at most ``timeout_s`` per completion for each user function (they run side by side),
        plus their restarts and the calls of other groups that wait for the same function.
        """
        await self.start()
        columns = await asyncio.gather(
            *[self._judge(term, sample, completions) for term in self._terms]
        )
        return [self._join(values) for values in zip(*columns, strict=True)]

    async def close(self) -> None:
        """End the processes of user functions."""
        await asyncio.gather(*[runner.close() for runner in self._runners.values()])

    async def __aenter__(self) -> "Scorer":
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _judge(
        self, term: RewardTerm, sample: Sample, completions: Sequence[Completion]
    ) -> list[float | Failure]:
        runner = self._runners.get(term.part)
        if runner is None:
            function = BUILTINS[term.function]
            contexts = self._contexts(sample, completions)
            return [
                function(context.texts[context.index], sample.label, context)
                for context in contexts
            ]
        return [await runner.score(_question(sample, completion)) for completion in completions]

    def _contexts(self, sample: Sample, completions: Sequence[Completion]) -> list[RewardContext]:
        texts = tuple(completion.text for completion in completions)
        return [
            RewardContext(
                labels=self._labels,
                extra=sample.extra,
                texts=texts,
                index=index,
                num_tokens=len(completion.token_ids),
                is_truncated=completion.finish_reason.is_truncated,
                max_response_length=None,
                video=sample.video,
            )
            for index, completion in enumerate(completions)
        ]

    def _join(self, values: Sequence[float | Failure]) -> Score | Failure:
        """The values of all terms for one trace -> its outcome; the first failure stands."""
        parts: dict[str, float] = {}
        for term, value in zip(self._terms, values, strict=True):
            if isinstance(value, Failure):
                return value
            parts[term.part] = value
        total = math.fsum(term.weight * parts[term.part] for term in self._terms)
        if not math.isfinite(total):
            culprit = max(parts, key=lambda part: abs(parts[part]))
            reason = f"the weighted sum of {parts} is {total}; return smaller values"
            return Failure(kind=FailureKind.REWARD, culprit=culprit, reason=reason)
        return Score(total=total, parts=parts)


def _question(sample: Sample, completion: Completion) -> Question:
    """verl's arguments; ``extra_info``: the manifest's further columns and the trace's origin."""
    own = {
        "sample_id": sample.id,
        "split": sample.split.value,
        "is_truncated": completion.finish_reason.is_truncated,
        "policy_version": str(completion.policy_version),
    }
    return Question(
        data_source=str(sample.extra.get("data_source", "")),
        solution_str=completion.text,
        ground_truth=sample.label,
        extra_info={**sample.extra, **own},
    )
