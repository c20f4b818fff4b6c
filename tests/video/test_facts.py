"""Facts come from packets; a header that claims more pixels is believed, and nothing decoded."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.damage import huge_frame
from tests.video.formats import FORMATS, Format, write_long, write_video
from video.decode import decode_frames
from video.facts import VideoFacts, facts_of
from wire.errors import ClipError

MakeClip = Callable[..., Path]


def facts(path: Path, max_frames: int = 10_000, max_pixels: int = 10_000_000) -> VideoFacts:
    return facts_of(path, max_frames=max_frames, max_pixels=max_pixels)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_has_its_frames_its_length_and_its_size(form: Format, tmp_path: Path) -> None:
    seen = facts(write_video(tmp_path / form.name, form, range(60)))
    assert (seen.frames, (seen.width, seen.height)) == (60, form.size)
    assert seen.seconds == pytest.approx(60 / form.rate, rel=0.05)


def test_a_longer_clip_is_read_up_to_the_limit(tmp_path: Path) -> None:
    seen = facts(write_long(tmp_path / "long.mp4", 3600), max_frames=500)
    assert seen.frames == 501


def test_an_hour_is_an_hour(tmp_path: Path) -> None:
    seen = facts(write_long(tmp_path / "long.mp4", 3600), max_frames=50_000)
    assert (seen.frames, seen.seconds) == (36_000, pytest.approx(3600, rel=0.001))


def test_of_a_clip_with_more_pixels_nothing_is_decoded(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip(size=(128, 64))
    monkeypatch.setattr("video.facts.frames_of", lambda *_: pytest.fail("it was decoded"))
    seen = facts(path, max_pixels=128 * 64 - 1)
    assert (seen.width, seen.height) == (128, 64)


def test_a_header_that_claims_four_billion_pixels_is_above_any_limit(make_clip: MakeClip) -> None:
    path = make_clip()
    path.write_bytes(huge_frame(path.read_bytes(), random.Random(0)))
    try:
        seen = facts(path)
    except ClipError:
        return  # FFmpeg itself may refuse it
    assert seen.width * seen.height in (64 * 48, 65_500**2)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\n")
    with pytest.raises(ClipError, match="a playlist, not a video"):
        facts(tmp_path / "a.mp4")


def test_frames_are_those_of_their_numbers(make_clip: MakeClip) -> None:
    clip = decode_frames(make_clip(frames=20), [7, 3, 19])
    assert clip.frame_indices == (3, 7, 19, 19)
    assert [int(frame[40, 40, 0]) for frame in clip.frames] == pytest.approx(
        [30, 70, 190, 190], abs=4
    )


@pytest.mark.parametrize("numbers", [[], [-1], [20], [2**40]])
def test_a_number_that_is_no_frame_is_an_error(make_clip: MakeClip, numbers: list[int]) -> None:
    with pytest.raises(ClipError, match="it has frames 0 to 19, asked for"):
        decode_frames(make_clip(frames=20), numbers)
