"""Label codes: the tokens that stand for a label in an answer, asked of the learner.

examples -> prompts for a verdict, or for the label alone -> logprob of each label's code
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibrate.verdict import VerdictExample
from cluster.session import Session
from learner.shared_prefix.rows import Response, Row, supervised_row
from wire.errors import DataError
from wire.types import Failure, Prompt

_PROMPTS_AT_ONCE = 256


def label_code_row(prompt: Prompt, video: str, codes: Sequence[tuple[int, ...]]) -> Row:
    """A row of all label codes as responses to one prompt, to compute their logprobs."""
    return Row(
        prompt=prompt, video=video, responses=tuple(Response(token_ids=code) for code in codes)
    )


async def code_logprobs(session: Session, rows: Sequence[Row]) -> NDArray[np.float64]:
    """[N, L]: logprob of each response of each row, summed over its tokens."""
    logprobs = await session.learner.logprobs(rows)
    return np.array([[sum(tokens) for tokens in row] for row in logprobs])


async def label_code_logprobs(
    session: Session, examples: Sequence[VerdictExample]
) -> NDArray[np.float64]:
    """[N, L]: logprob of each label's code under the learner's present weights."""
    codes = list(session.renderer.label_codes(session.config.label_set).values())
    rows = [
        label_code_row(prompt, example.sample.video, codes)
        for example, prompt in await label_code_prompts(session, examples)
    ]
    return await code_logprobs(session, rows)


async def label_code_targets(session: Session, examples: Sequence[VerdictExample]) -> list[Row]:
    """Rows that train the code of each example's label (end of turn not included)."""
    codes = session.renderer.label_codes(session.config.label_set)
    return [
        supervised_row(prompt, example.sample.video, codes[example.label])
        for example, prompt in await label_code_prompts(session, examples)
    ]


async def label_code_prompts(
    session: Session, examples: Sequence[VerdictExample]
) -> list[tuple[VerdictExample, Prompt]]:
    """Each example's prompt. Raises DataError if a clip can no longer be read."""
    pairs = []
    for start in range(0, len(examples), _PROMPTS_AT_ONCE):  # so that calls do not pile up
        part = examples[start : start + _PROMPTS_AT_ONCE]
        pairs += list(zip(part, await _ask(session, part), strict=True))
    bad = next((p for _, p in pairs if isinstance(p, Failure)), None)
    if bad is not None:
        raise DataError(f"no label can be asked for {bad.culprit}: {bad.reason}")
    return [(example, prompt) for example, prompt in pairs if isinstance(prompt, Prompt)]


async def _ask(session: Session, examples: Sequence[VerdictExample]) -> list[Prompt | Failure]:
    """Render the prompts: for a verdict on each trace, or for the label where examples have
    none."""
    traces = [(e.sample, e.trace) for e in examples if e.trace is not None]
    assert len(traces) in (0, len(examples)), "examples with and without trace in one training"
    if traces:
        return await session.verdict_prompts(traces)
    return await session.label_prompts([example.sample for example in examples])
