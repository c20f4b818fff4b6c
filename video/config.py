"""Settings of clips: frames, pixels per frame, decoding, and the cache of processed clips."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from wire.config import Config


class VideoConfig(Config):
    """Sampling of frames (Qwen's names) and the clip cache."""

    fps: float | None = Field(default=None, gt=0)
    """Frames sampled per second of video; none: spread ``max_frames`` over the clip if it has
    more."""
    min_frames: int = Field(default=2, ge=2)
    """At least so many frames; a shorter clip repeats its last one (DeepIntuit duplicates a single
    frame)."""
    max_frames: int = Field(default=32, ge=2)
    """At most so many frames (DeepIntuit: 32)."""
    min_pixels: int | None = Field(default=None, gt=0)
    """Pixels per frame are scaled up to at least this; none: the processor's own setting."""
    max_pixels: int | None = Field(default=None, gt=0)
    """Pixels per frame are scaled down to at most this; none: the processor's own setting."""
    total_pixels: int | None = Field(default=None, gt=0)
    """Bounds all frames together: each is scaled down to 2 * total_pixels / frames. As in
    qwen-vl-utils a pair of frames counts once, so 28 * 28 of them are one token of the model."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """auto: decord where it gives the very frames and pixels of PyAV, PyAV elsewhere; decord: a
    clip that only PyAV reads exactly is a decode failure; pyav: never decord."""
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """A clip that takes longer to decode is a decode failure; its decoder is killed."""
    decode_workers: int = Field(default=2, ge=1)
    """Processes that decode, for each rollout worker and learner rank; started when needed."""
    decode_memory_gb: float = Field(default=4.0, gt=0.2)
    """Memory that one of them may take; a clip that needs more is a decode failure."""
    cache_dir: Path | None = None
    """Processed clips, and what a frozen tower makes of them, are kept here; none: on each node in
    ``$DEEPINTUIT_CACHE_DIR``, else in ``deepintuit-UID`` on its temporary disk."""
    cache_max_gb: float = Field(default=50.0, gt=0)
    """Processed clips on a node may take this; of more clips a fixed random subset is kept. Less
    where the disk is nearly full."""

    @model_validator(mode="after")
    def _ordered(self) -> "VideoConfig":
        if self.min_frames > self.max_frames:
            raise ValueError(
                f"min_frames={self.min_frames} is above max_frames={self.max_frames}; lower the "
                "first"
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; lower the "
                "first"
            )
        self._check_total()
        return self

    def _check_total(self) -> None:
        """The longest clip must keep ``min_pixels``; qwen-vl-utils goes over the total instead."""
        if self.total_pixels is None or self.min_pixels is None:
            return
        each = total_per_frame(self.total_pixels, self.max_frames)
        if each < self.min_pixels:
            raise ValueError(
                f"total_pixels={self.total_pixels} leaves {each} pixels for each of max_frames="
                f"{self.max_frames} frames, below min_pixels={self.min_pixels}; raise the first or "
                "lower one of the others"
            )


def total_per_frame(total_pixels: int, num_frames: int) -> int:
    """Most pixels of each frame under a bound of all together; a pair of frames counts once."""
    return 2 * total_pixels // num_frames
