"""Position ids of a prompt with a video, by the rule that vLLM and the original Qwen code use.

    ids, grid, seconds per grid step -> positions [3, L]  (rows: time, height, width)

The video tokens come in blocks: one for the whole clip, or one for each temporal patch where text
stands between them (Qwen3-VL). Text after a block starts at 1 + the block's largest position.

transformers 5.19 differs silently: its text after a video goes on at start + max(height, width) /
merge and ignores time, which moves logprobs by 0.005 to 0.04 as soon as a clip is longer in time
than in space. So both the prompt layout and the shared-prefix layout of the learner take their
positions from here, and a test holds them against vLLM's, family by family.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from video.families import Family, family_named, read_config

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PositionRule:
    """Settings of a model's configuration that decide its positions."""

    model_type: str
    video_token_id: int
    merge_size: int
    tokens_per_second: float
    num_deepstack: int = 0
    """Layers of the text model that take features of the tower, too (Qwen3-VL)."""

    def __post_init__(self) -> None:
        family_named(self.model_type)

    @classmethod
    def load(cls, model_dir: Path) -> "PositionRule":
        """The rule of a model directory's ``config.json``. Raises ConfigError for another kind of
        model."""
        config = read_config(model_dir)
        family = family_named(str(config.get("model_type")))
        vision = config.get("vision_config", {})
        return cls(
            model_type=family.model_type,
            video_token_id=int(config.get("video_token_id", -1)),
            merge_size=int(vision.get("spatial_merge_size", 2)),
            tokens_per_second=float(vision.get("tokens_per_second", family.tokens_per_second)),
            num_deepstack=len(vision.get("deepstack_visual_indexes", ())),
        )

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_named(self.model_type)

    def is_video(self, ids: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Mask of the tokens that stand for patches of the clip, bool [L]."""
        mask: npt.NDArray[np.bool_] = np.asarray(ids) == self.video_token_id
        return mask

    def video_span(self, ids: Sequence[int]) -> tuple[int, int]:
        """Start and length of the clip in a prompt: from its first to its last video token, and
        with the start token of the first block where there are several (vLLM looks for it).

        Raises ValueError for a prompt without video tokens.
        """
        places = np.flatnonzero(self.is_video(ids))
        if not len(places):
            raise ValueError(
                "the prompt has no video token; render it with the clip's own placeholder ids"
            )
        start = int(places[0]) - self.family.writes_times
        return start, int(places[-1]) + 1 - start

    def of_prompt(
        self, ids: Sequence[int], grid_thw: Sequence[int], seconds_per_grid: float
    ) -> Positions:
        """Positions of a prompt with one video, int64 [3, L].

        ``grid_thw`` counts patches (before merging); ``seconds_per_grid`` is the time between two
        temporal patches (``ProcessedClip.seconds_per_grid``).
        Raises ValueError if the ids do not hold exactly the video tokens that such a clip has.
        """
        t, h, w = grid_thw[0], grid_thw[1] // self.merge_size, grid_thw[2] // self.merge_size
        num_blocks = t if self.family.writes_times else 1
        starts = self._block_starts(ids, num_blocks, t * h * w // num_blocks)
        block = np.indices((t // num_blocks, h, w))
        block[0] = (block[0] * (seconds_per_grid * self.tokens_per_second)).astype(np.int64)
        block = block.reshape(3, -1)
        parts: list[Positions] = []
        done = position = 0
        for start in starts:
            parts += [_text(np.arange(start - done) + position)]
            parts += [block + position + start - done]
            done, position = start + block.shape[1], int(parts[-1].max()) + 1
        parts += [_text(np.arange(len(ids) - done) + position)]
        return np.concatenate(parts, axis=1)

    def of_text(self, ids: Sequence[int]) -> Positions:
        """Positions of a prompt without video, int64 [3, L]."""
        return _text(np.arange(len(ids)))

    def _block_starts(self, ids: Sequence[int], num_blocks: int, length: int) -> list[int]:
        edges = np.diff(self.is_video(ids).astype(np.int8), prepend=0, append=0)
        starts: list[int] = np.flatnonzero(edges == 1).tolist()
        ends: list[int] = np.flatnonzero(edges == -1).tolist()
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        if lengths != [length] * num_blocks:
            raise ValueError(
                f"the prompt has runs of {lengths} video tokens, its clip needs {num_blocks} of "
                f"{length}; render it with the clip's own placeholder ids"
            )
        return starts


def of_response(prompt: Positions, length: int) -> Positions:
    """Positions of ``length`` response tokens after a prompt: 1 + its largest position, and on."""
    start = int(prompt.max()) + 1
    return _text(np.arange(start, start + length))


def _text(row: npt.NDArray[np.int64]) -> Positions:
    return np.broadcast_to(row, (3, len(row))).astype(np.int64)
