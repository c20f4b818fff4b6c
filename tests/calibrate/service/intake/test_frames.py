"""Frames are decoded a block at a time, once for all who wait, and forgotten in the end."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.intake.clips import Intake
from calibrate.service.intake.frames import FramePictures
from calibrate.service.intake.store import ClipStore
from calibrate.service.problems import Problem
from tests.calibrate.service.running import AnyInspector, make_config
from wire.errors import ClipError


class Inspector(AnyInspector):
    """Each picture has ten bytes: its number."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.fails = False
        self.pause_s = 0.0

    async def frames(self, path: Path, numbers: Sequence[int]) -> list[bytes]:
        self.asked.append(tuple(numbers))
        await asyncio.sleep(self.pause_s)
        if self.fails:
            raise ClipError(f"cannot decode {path}: it is damaged")
        return [b"%10d" % number for number in numbers]


@pytest.fixture
def inspector() -> Inspector:
    return Inspector()


@pytest.fixture
def intake(tmp_path: Path, inspector: Inspector) -> Iterator[Intake]:
    config = make_config(tmp_path)
    made = Intake(config, inspector, ClipStore(config.state / "clips", 1000))
    yield made
    made.close()


async def uploaded(intake: Intake, data: bytes = b"clip") -> dict[str, Any]:
    async def stream() -> AsyncIterator[bytes]:
        yield data

    clip = await intake.from_upload(stream(), "a.mp4")
    return {"video_hash": clip.video_hash, "source": clip.source, "name": clip.name}


async def test_all_who_ask_at_once_have_one_block_decoded(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=5), await uploaded(intake)
    seen = (24, 0, 8, 16, 16)
    got = await asyncio.gather(*[pictures.png(**clip, numbers=seen, number=one) for one in seen])
    assert [int(one) for one in got] == list(seen)
    assert await pictures.png(**clip, numbers=seen, number=8) == got[2]
    assert inspector.asked == [(0, 8, 16, 24)]


async def test_of_many_frames_only_the_block_is_decoded(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=5), await uploaded(intake)
    await pictures.png(**clip, numbers=range(0, 1000, 10), number=500)
    assert inspector.asked == [tuple(range(320, 640, 10))]


async def test_a_frame_that_the_model_did_not_see_is_404(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=5), await uploaded(intake)
    with pytest.raises(Problem, match="the model saw the frames 0, 8") as caught:
        await pictures.png(**clip, numbers=(0, 8), number=1)
    assert caught.value.status == 404
    assert inspector.asked == []


async def test_a_failure_is_a_problem_and_is_not_remembered(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=5), await uploaded(intake)
    inspector.fails = True
    with pytest.raises(Problem, match=r"cannot decode a\.mp4: it is damaged") as caught:
        await pictures.png(**clip, numbers=(0,), number=0)
    assert caught.value.status == 422
    inspector.fails = False
    assert await pictures.png(**clip, numbers=(0,), number=0)


async def test_a_clip_that_is_gone_is_410_unless_its_pictures_are_remembered(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=5), await uploaded(intake)
    await pictures.png(**clip, numbers=(0,), number=0)
    intake._clips.remove(clip["video_hash"])
    assert await pictures.png(**clip, numbers=(0,), number=0)
    pictures.forget(clip["video_hash"])
    with pytest.raises(Problem) as caught:
        await pictures.png(**clip, numbers=(0,), number=0)
    assert caught.value.status == 410


async def test_the_pictures_used_longest_ago_are_forgotten(
    intake: Intake, inspector: Inspector
) -> None:
    pictures = FramePictures(intake, inspector, timeout_s=5, max_bytes=25)
    clips = [await uploaded(intake, b"%d" % number) for number in range(3)]
    for one in (0, 1, 0, 2, 0, 1):
        await pictures.png(**clips[one], numbers=(0,), number=0)
    assert len(inspector.asked) == 4


async def test_who_waits_too_long_is_told_and_the_next_one_gets_it(
    intake: Intake, inspector: Inspector
) -> None:
    pictures, clip = FramePictures(intake, inspector, timeout_s=0.05), await uploaded(intake)
    inspector.pause_s = 0.2
    with pytest.raises(Problem) as caught:
        await pictures.png(**clip, numbers=(0,), number=0)
    assert (caught.value.status, caught.value.slug) == (503, "frames-busy")
    await asyncio.sleep(0.3)
    assert await pictures.png(**clip, numbers=(0,), number=0)
    assert len(inspector.asked) == 1
