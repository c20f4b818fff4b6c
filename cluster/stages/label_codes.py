"""Label codes: the tokens that stand for a label in an answer, asked of the learner.

examples -> prompts for a verdict, or for the label alone -> logprob of each label's code
"""

import operator
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.traces import VerdictExample, VerdictExamples
from cluster.metrics.inference_cost import TokenCount
from cluster.session import Session
from cluster.stages.spilled_rows import SpilledRows
from learner.shared_prefix.rows import Response, Row, RowLogprobs, supervised_row
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.token_arrays import TokenIds
from wire.types import Failure, Prompt, Sample

_AT_ONCE = 1024  # prompts in memory, and rows of a call to the learner


class LabelPrompts(Protocol):
    """Renders the prompts that ask for a label; cluster/session.py implements it."""

    async def verdict_prompts(self, traces: list[tuple[Sample, str]]) -> list[Prompt | Failure]:
        """Prompts that ask for a verdict on traces, in their order."""
        ...

    async def label_prompts(self, samples: list[Sample]) -> list[Prompt | Failure]:
        """Prompts that ask for the label, given the video alone, in their order."""
        ...


class ScoringLearner(Protocol):
    """Scores responses; cluster/actors/learner_group.py implements it."""

    async def logprobs(self, rows: Sequence[Row]) -> RowLogprobs:
        """Logprob of every response token, per row and response."""
        ...


class LabelCodes:
    """Asks the learner for labels by their codes, and makes rows that train them."""

    def __init__(
        self,
        codes: Mapping[str, tuple[int, ...]],
        prompts: LabelPrompts,
        learner: ScoringLearner,
    ) -> None:
        """``codes``: label -> its tokens, in the order of the label set."""
        self._codes, self._prompts, self._learner = codes, prompts, learner

    @classmethod
    def of(cls, session: Session) -> Self:
        """With the labels, engines and learner of a run."""
        codes = session.renderer.label_codes(session.config.label_set)
        return cls(codes, session, session.learner)

    def num_tokens(self, label: str) -> int:
        """Number of tokens of a label's code."""
        return len(self._codes[label])

    async def logprobs(
        self, examples: VerdictExamples, count: TokenCount | None = None
    ) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code under the learner's present weights. ``count``: of
        the tokens that this takes.

        Raises DataError if a clip can no longer be read.
        """
        codes, parts = list(self._codes.values()), [np.empty((0, len(self._codes)))]
        async for block in self._prompted(examples):
            rows = [label_code_row(prompt, e.sample.video, codes) for e, prompt in block]
            if count is not None:
                for _, prompt in block:
                    count.add(prompt, scored=sum(map(len, codes)))
            parts.append(await code_logprobs(self._learner, rows))
        return np.concatenate(parts)

    async def targets(
        self,
        examples: VerdictExamples,
        folder: Path,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> SpilledRows:
        """Rows that train the code of each example's label, on disk in ``folder``. ``weights``: of
        labels in the loss, else 1.

        Raises DataError if a clip can no longer be read.
        """
        rows = SpilledRows(folder)
        async for block in self._prompted(examples):
            for example, prompt in block:
                code, weight = self._codes[example.label], weights.get(example.label, 1.0)
                rows.append(supervised_row(prompt, example.sample.video, code, weight))
        return rows

    async def _prompted(
        self, examples: VerdictExamples
    ) -> AsyncIterator[list[tuple[VerdictExample, Prompt]]]:
        """Examples with their prompts, some at a time."""
        for start in range(0, len(examples), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(examples))
            block = await run_in_daemon_thread(operator.getitem, examples, slice(start, stop))
            prompts = await self._render(block)
            bad = next((p for p in prompts if isinstance(p, Failure)), None)
            if bad is not None:
                raise DataError(f"no label can be asked for {bad.culprit}: {bad.reason}")
            pairs = zip(block, prompts, strict=True)
            yield [(example, prompt) for example, prompt in pairs if isinstance(prompt, Prompt)]

    async def _render(self, examples: Sequence[VerdictExample]) -> list[Prompt | Failure]:
        """Prompts for a verdict on each trace, or for the label where examples have none."""
        traces = [(e.sample, e.trace) for e in examples if e.trace is not None]
        assert len(traces) in (0, len(examples)), "examples with and without trace in one training"
        if traces:
            return await self._prompts.verdict_prompts(traces)
        return await self._prompts.label_prompts([example.sample for example in examples])


def label_code_row(prompt: Prompt, video: str, codes: Sequence[tuple[int, ...]]) -> Row:
    """A row of all label codes as responses to one prompt, to compute their logprobs."""
    return Row(
        prompt=prompt,
        video=video,
        responses=tuple(Response(token_ids=TokenIds(code)) for code in codes),
    )


async def code_logprobs(learner: ScoringLearner, rows: Sequence[Row]) -> NDArray[np.float64]:
    """[N, L]: logprob of each response of each row, summed over its tokens."""
    logprobs = await learner.logprobs(rows)
    return np.array([[sum(tokens) for tokens in row] for row in logprobs])
