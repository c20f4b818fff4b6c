"""The largest micro-batch that a stage can have, made of blank clips and filler tokens.

sizes that the recipe allows -> LargestBatch -> rows + their clips, as any others
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from learner.shared_prefix.rows import Response, Row
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.token_arrays import TokenIds
from wire.types import Prompt

_TEXT_OF_BLOCK = 1  # tokens before each block of video tokens; as few as there can be


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestBatch:
    """Sizes of a stage's longest rows.

    Example:
        LargestBatch(prompt_length=8192, response_length=4096, group_size=8, num_groups=4,
                     num_frames=32, max_tokens=16_384)
    """

    prompt_length: int
    response_length: int
    group_size: int
    num_groups: int
    """Groups that a rank may have in one update."""
    num_frames: int
    """Frames of the longest clip."""
    max_tokens: int
    """Token limit of a micro-batch; a prompt with one response may exceed it."""

    @property
    def responses(self) -> tuple[int, ...]:
        """Length of each response of a row."""
        room = self.max_tokens - self.prompt_length
        lengths = [self.response_length]
        while len(lengths) < self.group_size and (left := room - sum(lengths)) > 0:
            lengths.append(min(self.response_length, left))
        return tuple(lengths)

    @property
    def num_rows(self) -> int:
        """Rows that fit into the micro-batch."""
        of_group = -(-self.group_size // len(self.responses))
        return max(1, min(self.num_groups * of_group, self.max_tokens // self._row_tokens))

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole micro-batch."""
        return self.num_rows * self._row_tokens

    @property
    def _row_tokens(self) -> int:
        return self.prompt_length + sum(self.responses)

    def scaled(self, share: float) -> "LargestBatch":
        """The same number of rows, each shorter by the factor ``share``."""
        return replace(
            self,
            prompt_length=max(4, int(self.prompt_length * share)),
            response_length=max(1, int(self.response_length * share)),
            num_frames=max(2, int(self.num_frames * share)),
            max_tokens=math.ceil(self.max_tokens * share),
        )

    def grid(self, rule: PositionRule) -> tuple[int, int, int]:
        """Patches of a clip that fills the prompt: in time, height, width."""
        steps = max(1, min(self.num_frames // 2, (self.prompt_length - 1) // 2))
        blocks = steps if rule.family.writes_times else 1
        each = max(1, (self.prompt_length - 1 - blocks * _TEXT_OF_BLOCK) // steps)
        height = math.isqrt(each)
        return steps, height * rule.merge_size, each // height * rule.merge_size

    def rows(self, rule: PositionRule) -> list[Row]:
        """Rows of these sizes, which train nothing."""
        word = int(rule.video_token_id == 0)  # any token that is none of a clip
        t, h, w = self.grid(rule)
        merged = t * h * w // rule.merge_size**2
        blocks = t if rule.family.writes_times else 1
        block = [*[word] * _TEXT_OF_BLOCK, *[rule.video_token_id] * (merged // blocks)]
        ids = block * blocks
        ids += [word] * (self.prompt_length - len(ids))
        responses = tuple(
            Response(token_ids=TokenIds((word,) * length), trains=False)
            for length in self.responses
        )
        return [
            Row(
                prompt=Prompt(token_ids=TokenIds(ids), clip_key=f"blank-{n}", fingerprint=""),
                video="",
                responses=responses,
            )
            for n in range(self.num_rows)
        ]

    def clips(self, rule: PositionRule, values_per_patch: int) -> Callable[[Row], ProcessedClip]:
        """Loader of a blank clip for any of the rows."""
        grid = self.grid(rule)
        pixels = np.zeros((math.prod(grid), values_per_patch), np.float32)

        def clip_of(row: Row) -> ProcessedClip:
            return ProcessedClip(
                pixel_values=pixels,
                grid_thw=grid,
                seconds_per_grid=1.0,
                placeholder_ids=(),
                fingerprint="",
                clip_key=row.prompt.clip_key,
            )

        return clip_of
