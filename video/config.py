"""How clips are sampled and where processed clips are kept."""

from pathlib import Path

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
    decode_timeout_s: float = Field(default=60.0, gt=0)
    """A clip that takes longer to decode is a decode failure."""
    cache_dir: Path | None = None
    """Processed clips are kept here; none: ``cache`` in the run directory."""

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
        return self
