"""Limits of clips, checked before anything is decoded; each refusal is a typed Problem.

bytes while they stream; frames, seconds and pixels as the container states them -> Problem 413
what the inspector says of a file that is no video, is damaged or too slow -> Problem 415, 422
"""

from dataclasses import dataclass
from pathlib import Path

from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipFacts
from wire.errors import (
    ClipError,
    ClipTimedOut,
    ClipUnreachable,
    DeepIntuitError,
    NoVideo,
    WorkerDied,
)

_REFUSALS: tuple[tuple[type[DeepIntuitError], int, str], ...] = (
    (NoVideo, 415, "no-video"),
    (ClipTimedOut, 422, "clip-too-slow"),
    (ClipUnreachable, 503, "clip-unreachable"),
    (ClipError, 422, "clip-unreadable"),
    (WorkerDied, 503, "inspector-unavailable"),
)
"""The first class that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLimits:
    """Limits of one clip."""

    max_bytes: int
    max_seconds: float
    max_frames: int
    max_pixels: int
    """Width times height of a frame."""

    def check_bytes(self, size: int) -> None:
        """Refuse a clip of more bytes. Raises Problem 413."""
        _check("clip-too-large", "bytes", size, self.max_bytes)

    def check(self, facts: ClipFacts) -> None:
        """Refuse a clip that is too long or whose frames are too large. Raises Problem 413."""
        pixels = facts.width * facts.height
        _check(
            "frames-too-large", f"pixels ({facts.width} x {facts.height})", pixels, self.max_pixels
        )
        _check("too-many-frames", "frames", facts.frames, self.max_frames)
        _check("clip-too-long", "seconds", facts.seconds, self.max_seconds)


def _check(slug: str, unit: str, got: float, limit: float) -> None:
    if got > limit:
        shown = f"{got:.10g}" if isinstance(got, float) else f"{got}"
        raise Problem(
            413,
            slug,
            f"the clip has {shown} {unit}, this service takes at most {limit:.10g}; send a "
            "shorter or smaller one",
            extra={"got": got, "limit": limit},
        )


def refusal_of(error: DeepIntuitError, path: Path, name: str) -> Problem:
    """Problem of a clip that could not be read; it names the clip as the client did."""
    detail = str(error).replace(str(path), name)
    for kind, status, slug in _REFUSALS:
        if isinstance(error, kind):
            headers = {"Retry-After": "10"} if status == 503 else {}
            return Problem(status, slug, detail, headers=headers)
    raise error
