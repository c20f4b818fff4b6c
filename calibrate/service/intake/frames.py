"""Frames of clips for people: decoded together, remembered for a while.

    (clip, frames that the model saw, one of them) -> block of frames -> inspector -> PNGs

A page asks for each picture in a request of its own, many at a time: the first one has the whole
block decoded, the others wait for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from calibrate.service.intake.clips import Intake, Source
from calibrate.service.intake.limits import refusal_of
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipInspector
from wire.errors import DeepIntuitError

_BLOCK = 32
_BYTES = 64 * 2**20

Key = tuple[str, tuple[int, ...]]


class FramePictures:
    """Pictures of frames. One for a service."""

    def __init__(
        self,
        intake: Intake,
        inspector: ClipInspector,
        *,
        timeout_s: float,
        max_bytes: int = _BYTES,
    ) -> None:
        """``timeout_s``: for one picture, its wait included; ``max_bytes``: of pictures that are
        remembered."""
        self._intake, self._inspector = intake, inspector
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._blocks: OrderedDict[Key, asyncio.Task[dict[int, bytes]]] = OrderedDict()
        """Those used last; a block that is being decoded is one too."""

    async def png(
        self, *, video_hash: str, source: Source, name: str, numbers: Sequence[int], number: int
    ) -> bytes:
        """Picture of a frame. ``numbers``: all that the model saw of the clip. Raises Problem 404
        if it did not see this one, and those of ``Intake.again``."""
        seen = sorted(set(numbers))
        if number not in seen:
            raise Problem(404, "no-such-frame", f"the model saw the frames {_listed(seen)}")
        start = seen.index(number) // _BLOCK * _BLOCK
        key = (video_hash, tuple(seen[start : start + _BLOCK]))
        task = self._blocks.get(key)
        if task is None:
            task = asyncio.create_task(self._decoded(key, source, name))
            task.add_done_callback(_is_read)
            self._blocks[key] = task
        self._blocks.move_to_end(key)
        try:
            async with asyncio.timeout(self._timeout_s):
                return (await asyncio.shield(task))[number]
        except TimeoutError as error:
            raise Problem(
                503,
                "frames-busy",
                "frames of other clips are being decoded; try again",
                headers={"Retry-After": "10"},
            ) from error

    def forget(self, video_hash: str) -> None:
        """Drop the pictures of a clip."""
        for key in [key for key in self._blocks if key[0] == video_hash]:
            del self._blocks[key]

    async def _decoded(self, key: Key, source: Source, name: str) -> dict[int, bytes]:
        video_hash, numbers = key
        try:
            clip = await self._intake.again(video_hash=video_hash, source=source, name=name)
            try:
                pictures = await self._inspector.frames(clip.path, numbers)
            except DeepIntuitError as error:
                raise refusal_of(error, clip.path, name) from error
        except BaseException:
            self._blocks.pop(key, None)  # the next request tries again
            raise
        self._make_room(sum(map(len, pictures)))
        return dict(zip(numbers, pictures, strict=True))

    def _make_room(self, size: int) -> None:
        sizes = {
            key: sum(map(len, task.result().values()))
            for key, task in self._blocks.items()
            if task.done()
        }
        total = size + sum(sizes.values())
        for key, own in sizes.items():
            if total <= self._max_bytes:
                break
            del self._blocks[key]
            total -= own


def _is_read(task: asyncio.Task[dict[int, bytes]]) -> None:
    """A failure is raised to whoever waits; nobody may be left who does."""
    if not task.cancelled():
        task.exception()


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_BLOCK]))
    return shown if len(numbers) <= _BLOCK else f"{shown}, ..."
