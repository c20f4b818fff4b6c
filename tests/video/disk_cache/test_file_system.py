"""Whatever a disk refuses at whatever call: the clip is right, and there is at most one warning."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.video.disk_cache.refusing_disk import ERRORS, OPERATIONS, RefusingDisk
from video.cache import ClipStore
from video.config import VideoConfig
from video.decode import DecodedClip

TINY = VideoConfig(max_frames=8, cache_max_gb=6000 / 2**30)  # each look evicts


class OneClipPool:
    """A decoder that has decoded already."""

    def __init__(self) -> None:
        frames = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
        self.clip = DecodedClip(
            frames=frames,
            frame_indices=(0, 1, 2, 3),
            timestamps_s=(0.0, 0.5, 1.0, 1.5),
            fps=2.0,
            total_frames=4,
            native_fps=2.0,
            seconds=2.0,
            not_by_decord=None,
        )

    @contextmanager
    def helper(self) -> Iterator[Any]:
        yield SimpleNamespace(decode=lambda path, window: self.clip)


def use_store(folder: Path, fake: Any, disk: RefusingDisk, config: VideoConfig = TINY) -> list[str]:
    """What two processes, one after the other, see of three clips."""
    paths = [folder / f"{number}.mp4" for number in range(3)]
    prints = []
    for path in paths:
        path.write_bytes(path.name.encode())
    for _ in range(2):
        store = ClipStore(folder / "cache", fake, config, OneClipPool(), disk)  # type: ignore[arg-type]
        prints += [store.get(path).fingerprint for path in paths]
    return prints


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("number", ERRORS)
def test_a_clip_is_right_whatever_the_disk_refuses_at_whatever_call(
    number: int, operation: str, tmp_path: Path, fake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sound = RefusingDisk()
    (tmp_path / "sound").mkdir()
    expected = use_store(tmp_path / "sound", fake, sound)
    assert sound.calls[operation] > 0, "the case calls every operation"
    for at in (None, *range(1, sound.calls[operation] + 1)):
        folder = tmp_path / str(at)
        folder.mkdir()
        caplog.clear()
        disk = RefusingDisk(operation, number, at)
        assert use_store(folder, fake, disk) == expected
        warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) <= 2, warnings  # one of each process
        assert all(str(folder / "cache") in warning for warning in warnings)
        if at is None and operation in ("open", "lock"):
            assert not list(folder.rglob("*.partial")), "a file for each clip would stay"
            assert not list(folder.rglob("*.safetensors")), "what cannot be bounded is not kept"


def test_a_folder_on_a_disk_that_only_reads_is_read(
    tmp_path: Path, fake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    roomy = VideoConfig(max_frames=8)
    use_store(tmp_path, fake, RefusingDisk(), roomy)
    made = fake.calls
    use_store(tmp_path, fake, RefusingDisk("open", errno.EROFS), roomy)
    assert fake.calls == made
    assert caplog.text.count("cannot keep clips") == 2  # once in each process
