"""Position ids of a prompt with a video, by the rule that vLLM and the original Qwen code use.

    ids, grid, seconds per grid step -> positions [3, L]  (rows: time, height, width)

transformers 5.19 differs silently: its text after a video goes on at start + max(height, width) /
merge and ignores time, which moves logprobs by 0.005 to 0.04 as soon as a clip is longer in time
than in space. So both the prompt layout and the shared-prefix layout of the learner take their
positions from here, and a test holds them against vLLM's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wire.errors import ConfigError

Positions = npt.NDArray[np.int64]

_TIMED = "qwen2_5_vl"
_SUPPORTED = (_TIMED,)


@dataclass(frozen=True, slots=True)
class PositionRule:
    """What of a model's configuration decides its positions."""

    model_type: str
    video_token_id: int
    merge_size: int
    tokens_per_second: float

    def __post_init__(self) -> None:
        if self.model_type not in _SUPPORTED:
            raise ConfigError(
                f"model type {self.model_type!r} has no position rule here; "
                f"use a model of: {', '.join(_SUPPORTED)}"
            )

    @classmethod
    def load(cls, model_dir: Path) -> "PositionRule":
        """From a model directory's ``config.json``. Raises ConfigError for another kind of
        model."""
        try:
            config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"cannot read {model_dir / 'config.json'}: {error}; give the directory of a model "
                "in Hugging Face format"
            ) from error
        if not isinstance(config, dict):
            raise ConfigError(
                f"{model_dir / 'config.json'} holds no settings; download the model's files anew"
            )
        vision = config.get("vision_config", {})
        return cls(
            model_type=str(config.get("model_type")),
            video_token_id=int(config.get("video_token_id", -1)),
            merge_size=int(vision.get("spatial_merge_size", 2)),
            tokens_per_second=float(vision.get("tokens_per_second", 4)),
        )

    def video_range(self, ids: Sequence[int]) -> tuple[int, int]:
        """Start and length of the video's tokens in a prompt. Raises ValueError without one run of
        them."""
        places = np.flatnonzero(np.asarray(ids) == self.video_token_id)
        if not len(places) or places[-1] - places[0] != len(places) - 1:
            raise ValueError(
                f"the prompt has {len(places)} video tokens, not one run of them; "
                "render it with the clip's own placeholder ids"
            )
        return int(places[0]), len(places)

    def of_prompt(
        self, ids: Sequence[int], grid_thw: Sequence[int], seconds_per_grid: float
    ) -> Positions:
        """Positions of a prompt with one video, int64 [3, L].

        ``grid_thw`` counts patches (before merging); ``seconds_per_grid`` is the time between two
        temporal patches.
        Text after the video starts at 1 + the largest position of the video block, time included.
        Raises ValueError if the ids do not hold exactly one run of the video's tokens.
        """
        t, h, w = grid_thw[0], grid_thw[1] // self.merge_size, grid_thw[2] // self.merge_size
        start, count = self.video_range(ids)
        if count != t * h * w:
            needed = t * h * w
            raise ValueError(
                f"the prompt has {count} video tokens, its grid {tuple(grid_thw)} needs {needed}; "
                "render it with the clip's own placeholder ids"
            )
        block = np.indices((t, h, w))
        block[0] = (block[0] * (seconds_per_grid * self.tokens_per_second)).astype(np.int64)
        block = block.reshape(3, -1) + start
        after = np.arange(len(ids) - start - count) + block.max() + 1
        return np.concatenate([_text(np.arange(start)), block, _text(after)], axis=1)

    def of_text(self, ids: Sequence[int]) -> Positions:
        """Positions of a prompt without video, int64 [3, L]."""
        return _text(np.arange(len(ids)))


def of_response(prompt: Positions, length: int) -> Positions:
    """Positions of ``length`` response tokens after a prompt: 1 + its largest position, and on."""
    start = int(prompt.max()) + 1
    return _text(np.arange(start, start + length))


def _text(row: npt.NDArray[np.int64]) -> Positions:
    return np.broadcast_to(row, (3, len(row))).astype(np.int64)
