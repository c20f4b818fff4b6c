"""Linear head on pooled features: what the frozen vision tower alone tells about a clip, a baseline
without language model and without order.

clips -> tower's features, averaged over places and time -> head fitted to the train clips
    -> Predictions of the measured clips
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibrate import head
from calibrate.predictions import Prediction, from_probabilities
from calibrate.verdict import no_prediction
from learner.shared_prefix.rows import Response, Row
from video.semantic_tokens.segment_file import Segments
from wire.token_arrays import TokenIds
from wire.types import Failure, Prompt, Sample

_STEPS = 1  # temporal patches are averaged here, each with the same weight
_AT_ONCE = 1024  # prompts in memory


class LabelPrompts(Protocol):
    """Renders prompts about clips; cluster/session.py implements it."""

    async def label_prompts(self, samples: list[Sample]) -> list[Prompt | Failure]:
        """Prompts that ask for the label, in their order."""
        ...


class SegmentReader(Protocol):
    """Reads the frozen tower's features; cluster/actors/learner_group.py implements it."""

    def segment_blocks(
        self, rows: Iterable[Row], spatial: int, steps: int
    ) -> AsyncIterator[list[Segments]]:
        """Blocks of segments ``[T, S, H]`` of the rows' clips, in their order."""
        ...


class PooledFeatures:
    """Mean features of clips, and a linear head on them."""

    def __init__(self, prompts: LabelPrompts, learner: SegmentReader) -> None:
        self._prompts, self._learner = prompts, learner

    async def of(self, samples: Sequence[Sample]) -> tuple[list[Sample], NDArray[np.float32]]:
        """Samples whose clips can be read, and their features [N, H]."""
        kept: list[Sample] = []
        parts: list[NDArray[np.float32]] = []
        for start in range(0, len(samples), _AT_ONCE):
            block = list(samples[start : start + _AT_ONCE])
            prompts = await self._prompts.label_prompts(block)
            rows = []
            for sample, prompt in zip(block, prompts, strict=True):
                if isinstance(prompt, Prompt):
                    kept.append(sample)
                    rows.append(_row(prompt, sample.video))
            async for segments in self._learner.segment_blocks(rows, 1, _STEPS):
                parts += [one.mean((0, 1)) for one in segments]
        return kept, np.stack(parts)

    async def predictions(
        self, train: Sequence[Sample], measured: Sequence[Sample], label_names: Sequence[str]
    ) -> list[Prediction]:
        """Predictions of a head that is fitted to ``train``; an unreadable clip counts as
        wrong."""
        learned, features = await self.of(train)
        labels, ids = [one.label for one in learned], [one.id for one in learned]
        fitted = head.fit(features, labels, label_names, ids)
        asked, seen = await self.of(measured)
        answers = from_probabilities(
            [one.id for one in asked],
            [one.label for one in asked],
            fitted.probabilities(seen),
            label_names,
        )
        by_id = {one.sample_id: one for one in answers}
        return [by_id.get(sample.id) or no_prediction(sample) for sample in measured]


def _row(prompt: Prompt, video: str) -> Row:
    """A row with the shortest response: the prompt is what counts."""
    response = Response(token_ids=TokenIds(prompt.token_ids[-1:]))
    return Row(prompt=prompt, video=video, responses=(response,))
