"""Frame sampling: which frames of a clip the model sees. Pure arithmetic: no file is opened here.

    total frames, native fps, settings -> frame indices
    timestamps of the chosen frames       -> effective fps (sets ``second_per_grid_ts``)

The count is always even, because two frames make one temporal patch. An odd ``max_frames``
therefore counts as the even number below it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_TEMPORAL_PATCH = 2


class FrameChoice(Protocol):
    """Settings that choose frames: ``VideoConfig``, or ``FrameSpec`` where that is too heavy to
    import."""

    @property
    def fps(self) -> float | None: ...
    @property
    def min_frames(self) -> int: ...
    @property
    def max_frames(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpec:
    """Settings that choose frames, alone: what a decoder process receives."""

    fps: float | None
    min_frames: int
    max_frames: int


def frame_indices(total_frames: int, native_fps: float, config: FrameChoice) -> list[int]:
    """Indices of the sampled frames, in order, an even number of them.

    With ``config.fps``, Qwen's rule: so many frames per second, spread evenly, but at least
    min_frames and at most max_frames. Without, DeepIntuit's: all frames, or
    floor(linspace(0, n - 1, max_frames)) of a longer clip; an odd count drops its last frame.
    A clip shorter than min_frames repeats its last frame, so a single frame is doubled.
    """
    if total_frames < 1:
        raise ValueError(f"a clip has {total_frames} frames; it needs at least one")
    indices = (
        _spread_whole(total_frames, config)
        if config.fps is None
        else _spread_by_fps(total_frames, native_fps, config.fps, config)
    )
    shortest = min(_even_up(config.min_frames), _even_down(config.max_frames))
    return indices + indices[-1:] * (shortest - len(indices))


def effective_fps(
    indices: Sequence[int], timestamps_s: Sequence[float], native_fps: float
) -> float:
    """Sampled frames per second, from the exact times of the frames; repeated frames count once.

    Rounded to 1/1000, below one frame a second to six digits (eight frames of an hour are 0.00194
    a second): containers keep times as ticks, and position ids are cut to int, so that 0.4999999
    seconds per grid step instead of 0.5 would move every frame by one position.
    A single distinct frame has no spacing: ``native_fps`` then.
    Raises ValueError if the times do not increase.
    """
    distinct = dict(zip(indices, timestamps_s, strict=True))
    if len(distinct) == 1:
        return _rounded(native_fps)
    times = list(distinct.values())
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise ValueError("frame timestamps do not increase; write the file anew with ffmpeg")
    return _rounded((len(times) - 1) / (times[-1] - times[0]))


def _rounded(fps: float) -> float:
    return round(fps, 3 if fps >= 1 else 5 - math.floor(math.log10(fps)))


def _spread_whole(total_frames: int, config: FrameChoice) -> list[int]:
    limit = _even_down(config.max_frames)
    if total_frames > limit:
        return [i * (total_frames - 1) // (limit - 1) for i in range(limit)]
    return list(range(total_frames if total_frames == 1 else _even_down(total_frames)))


def _spread_by_fps(
    total_frames: int, native_fps: float, fps: float, config: FrameChoice
) -> list[int]:
    """The rule of transformers' Qwen2-VL ``sample_frames``; one frame stays one here."""
    limit = min(_even_down(config.max_frames), total_frames)
    wanted = min(max(total_frames / native_fps * fps, config.min_frames), limit)
    count = max(_even_down(int(wanted)), 1)
    return [i * total_frames // count for i in range(count)]


def _even_down(count: int) -> int:
    return count - count % _TEMPORAL_PATCH


def _even_up(count: int) -> int:
    return count + count % _TEMPORAL_PATCH
