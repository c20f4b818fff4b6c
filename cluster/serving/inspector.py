"""Inspector of the service's clips: reads containers, and frames for people, in processes.

    path -> decoder processes (video/pool.py) -> facts (video/facts.py)
         -> others of their own               -> frames -> PNG

A file that hangs, crashes or starves its decoder costs that process, which is replaced.
"""

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from calibrate.service.protocols import ClipFacts
from video.config import VideoConfig
from video.decode import Frames
from video.file_kind import starts_as_video
from video.pool import DecodePool
from wire.errors import ClipError, ClipTimedOut, ClipUnreachable, NoVideo

T = TypeVar("T")

_LONGEST_SIDE = 768
"""Pixels of a frame that people look at."""


class PoolInspector:
    """Inspector with decoder processes of this machine."""

    def __init__(
        self,
        *,
        max_frames: int,
        max_pixels: int,
        workers: int = 2,
        timeout_s: float = 20.0,
        memory_gb: float = 2.0,
    ) -> None:
        """``timeout_s``: for the container of one clip; reading it all is a second for hours of
        video; ``memory_gb``: of each process."""
        self._limits = {"max_frames": max_frames, "max_pixels": max_pixels}
        containers = VideoConfig(
            decode_timeout_s=timeout_s, decode_workers=workers, decode_memory_gb=memory_gb
        )
        self._containers = _Line(containers)
        self._pictures = _Line(VideoConfig(decode_workers=1, decode_memory_gb=memory_gb))

    async def inspect(self, path: Path) -> ClipFacts:
        """Facts of a file. Raises NoVideo, ClipTimedOut, ClipError."""
        try:
            facts = await self._containers.run(lambda pool: pool.facts(path, **self._limits))
        except (ClipTimedOut, ClipUnreachable):
            raise
        except ClipError as error:
            if await asyncio.to_thread(starts_as_video, path):
                raise
            raise NoVideo(str(error)) from error
        return ClipFacts(**asdict(facts))

    async def frames(self, path: Path, numbers: Sequence[int]) -> list[bytes]:
        """Frames of a file by number, as PNG of at most 768 pixels a side. Raises ClipError."""
        return await self._pictures.run(partial(_pictures, path, numbers))

    async def close(self) -> None:
        """End its processes."""
        self._containers.close()
        self._pictures.close()


class _Line:
    """Decoder processes, and as many threads that wait for them."""

    def __init__(self, config: VideoConfig) -> None:
        self._pool = DecodePool(config)
        self._threads = ThreadPoolExecutor(
            config.decode_workers, thread_name_prefix="inspect-clips"
        )

    async def run(self, call: Callable[[DecodePool], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, call, self._pool)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()


def _pictures(path: Path, numbers: Sequence[int], pool: DecodePool) -> list[bytes]:
    clip = pool.frames(path, numbers)
    by_number = dict(zip(clip.frame_indices, clip.frames, strict=True))
    return [_png(by_number[number]) for number in numbers]


def _png(frame: Frames) -> bytes:
    from PIL import Image

    file, picture = io.BytesIO(), Image.fromarray(frame)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    picture.save(file, "PNG")
    return file.getvalue()
