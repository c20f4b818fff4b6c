from collections.abc import AsyncIterator, Iterable

import numpy as np

from cluster.stages.measurements.pooled_features import PooledFeatures
from learner.shared_prefix.rows import Row
from video.semantic_tokens.segment_file import Segments
from wire.types import Failure, FailureKind, Prompt, Sample, Split

BAD = "bad.mp4"


class Prompts:
    async def label_prompts(self, samples: list[Sample]) -> list[Prompt | Failure]:
        return [
            Failure(kind=FailureKind.DECODE, culprit=one.video, reason="cut")
            if one.video == BAD
            else Prompt(token_ids=(1, 2), clip_key=one.video, fingerprint="f")
            for one in samples
        ]


class Tower:
    """A tower that sees the label of a clip in the mean over time, never at one time."""

    async def segment_blocks(
        self, rows: Iterable[Row], spatial: int, steps: int
    ) -> AsyncIterator[list[Segments]]:
        assert (spatial, steps) == (1, 1)
        for row in rows:
            level = 1.0 if row.video.startswith("a") else -1.0
            swing = np.array([[level + 50, 0], [level - 50, 1]], np.float32)
            yield [swing[:, None]]


def samples(split: Split, *videos: str) -> list[Sample]:
    return [
        Sample(id=f"{split}-{n}", video=video, label=video[0], split=split)
        for n, video in enumerate(videos)
    ]


async def test_a_linear_head_reads_the_mean_of_the_features():
    train = samples(Split.TRAIN, *(f"{label}{n}.mp4" for n in range(10) for label in "ab"))
    measured = samples(Split.TEST, "a_new.mp4", BAD, "b_new.mp4")
    pooled = PooledFeatures(Prompts(), Tower())
    predictions = await pooled.predictions([*train, *samples(Split.TRAIN, BAD)], measured, "ab")
    assert [one.sample_id for one in predictions] == [one.id for one in measured]
    assert [one.predicted for one in predictions] == ["a", None, "b"]
    assert predictions[0].confidence > 0.5
