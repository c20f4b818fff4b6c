"""The inspector reads real files in processes of its own, and tells what is wrong with them."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from calibrate.service.intake.clips import Intake
from calibrate.service.intake.store import ClipStore
from calibrate.service.protocols import ClipFacts
from cluster.serving.inspector import PoolInspector
from tests.calibrate.service.running import make_config
from tests.video.conftest import FakeProcessor, write_clip
from video.cache import ClipStore as ClipCache
from video.config import VideoConfig
from wire.errors import ClipError, ClipTimedOut, NoVideo


@pytest.fixture
async def inspector() -> AsyncIterator[PoolInspector]:
    made = PoolInspector(max_frames=1000, max_pixels=100_000)
    yield made
    await made.close()


async def test_a_clip_has_the_facts_of_its_packets(
    inspector: PoolInspector, tmp_path: Path
) -> None:
    facts = await inspector.inspect(write_clip(tmp_path / "a.mp4", frames=24))
    assert facts == ClipFacts(seconds=3.0, frames=24, width=64, height=48, codec="h264")


async def test_a_file_of_another_kind_is_told_from_a_damaged_video(
    inspector: PoolInspector, tmp_path: Path
) -> None:
    data = write_clip(tmp_path / "whole.mp4").read_bytes()
    files = {
        "page.mp4": (b"<!DOCTYPE html><title>Login</title>", NoVideo),
        "noise.mp4": (bytes(range(256)) * 20, NoVideo),
        "empty.mp4": (b"", NoVideo),
        "list.m3u8": (b"#EXTM3U\n", NoVideo),
        "cut.mp4": (data[: len(data) // 2], ClipError),
    }
    for name, (content, kind) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError) as caught:
            await inspector.inspect(tmp_path / name)
        assert type(caught.value) is kind, name
        assert str(tmp_path / name) in str(caught.value)


async def test_a_container_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    clip, others = write_clip(tmp_path / "a.mp4", frames=20), set(psutil.Process().children())
    inspector = PoolInspector(max_frames=1000, max_pixels=100_000, workers=1, timeout_s=2.0)
    try:
        await inspector.inspect(clip)
        for reader in set(psutil.Process().children()) - others:
            reader.suspend()  # so that it answers no more
        with pytest.raises(ClipTimedOut, match="no result within"):
            await inspector.inspect(clip)
        assert (await inspector.inspect(clip)).frames == 20, "another one is in its place"
    finally:
        await inspector.close()


async def test_frames_for_people_are_those_numbers_scaled_down(
    inspector: PoolInspector, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=20, size=(1024, 64))
    pictures = [
        np.asarray(Image.open(io.BytesIO(data)))
        for data in await inspector.frames(clip, [11, 3, 11])
    ]
    assert [picture.shape for picture in pictures] == [(48, 768, 3)] * 3
    assert [int(picture[40, 700, 0]) for picture in pictures] == pytest.approx(
        [110, 30, 110], abs=4
    )


async def test_frames_do_not_keep_containers_waiting(
    inspector: PoolInspector, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=300, size=(640, 480))
    await asyncio.gather(inspector.inspect(clip), inspector.frames(clip, [0]))
    frames = asyncio.create_task(inspector.frames(clip, range(300)))
    start = time.monotonic()
    await inspector.inspect(clip)
    assert time.monotonic() - start < 5
    assert not frames.done()
    assert len(await frames) == 300


async def test_engines_see_the_same_frames_of_an_upload_and_of_a_path(
    inspector: PoolInspector, tmp_path: Path
) -> None:
    """Through the clip cache of a classifier, which gets other names for the same bytes."""
    path = write_clip(tmp_path / "a.mp4", frames=20)
    config = make_config(tmp_path, roots=(tmp_path,))

    async def stream() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    store = ClipStore(config.state / "clips", 10**6)
    with closing(Intake(config, inspector, store)) as intake:
        admitted = [await intake.from_upload(stream(), "b"), await intake.from_path("a.mp4")]
        cache = ClipCache(
            tmp_path / "cache", FakeProcessor(tmp_path / "log"), VideoConfig(max_frames=8)
        )
        seen = [cache.get(str(clip.path)) for clip in admitted]
    assert [clip.video_hash for clip in seen] == [clip.video_hash for clip in admitted]
    assert seen[0].fingerprint == seen[1].fingerprint == cache.get(str(path)).fingerprint
    assert cache.misses == 1
