"""Limits refuse with a typed problem that names what was got and what is allowed."""

from pathlib import Path

import pytest

from calibrate.service.intake.limits import ClipLimits, refusal_of
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipFacts
from wire.errors import ClipError, ClipTimedOut, ClipUnreachable, NoVideo, WorkerDied

LIMITS = ClipLimits(max_bytes=1000, max_seconds=60.0, max_frames=2000, max_pixels=1920 * 1080)


def facts(seconds: float = 2.0, frames: int = 16, width: int = 64, height: int = 48) -> ClipFacts:
    return ClipFacts(seconds=seconds, frames=frames, width=width, height=height, codec="h264")


def test_a_clip_at_its_limits_is_taken() -> None:
    LIMITS.check_bytes(1000)
    LIMITS.check(facts(seconds=60.0, frames=2000, width=1920, height=1080))


@pytest.mark.parametrize(
    ("bad", "slug", "got"),
    [
        (facts(seconds=60.5), "clip-too-long", 60.5),
        (facts(frames=2**31), "too-many-frames", 2**31),
        (facts(width=100_000, height=100_000), "frames-too-large", 10**10),
    ],
)
def test_a_clip_above_a_limit_is_413_with_both_numbers(
    bad: ClipFacts, slug: str, got: float
) -> None:
    with pytest.raises(Problem) as caught:
        LIMITS.check(bad)
    assert (caught.value.status, caught.value.slug) == (413, slug)
    assert caught.value.extra["got"] == got
    assert caught.value.extra["limit"] < got


def test_one_byte_too_many_is_413() -> None:
    with pytest.raises(Problem, match=r"1001 bytes.*at most 1000"):
        LIMITS.check_bytes(1001)


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (NoVideo, 415, "no-video"),
        (ClipTimedOut, 422, "clip-too-slow"),
        (ClipUnreachable, 503, "clip-unreachable"),
        (ClipError, 422, "clip-unreadable"),
        (WorkerDied, 503, "inspector-unavailable"),
    ],
)
def test_what_the_inspector_says_becomes_a_problem_with_the_clients_name(
    error: type[ClipError], status: int, slug: str
) -> None:
    path = Path("/state/clips/incoming/7.partial")
    problem = refusal_of(error(f"cannot decode {path}: it is cut"), path, "cat.mp4")
    assert (problem.status, problem.slug) == (status, slug)
    assert problem.detail == "cannot decode cat.mp4: it is cut"
    assert ("Retry-After" in problem.headers) == (status == 503)
