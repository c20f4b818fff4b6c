"""Loaded classifiers: at most so many at a time, the least recently used goes, the champion stays.

version -> loaded already | a free place | the place of the one that was not used longest
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from calibrate.service.problems import Problem
from calibrate.service.serving.running import RunningClassifier
from wire.errors import DeepIntuitError

Make = Callable[[int, Path], RunningClassifier]


class LoadedClassifiers:
    """Loaded classifiers by version."""

    def __init__(self, make: Make, max_loaded: int) -> None:
        """``make``: a classifier whose engines do not run yet."""
        self._make, self.max_loaded = make, max_loaded
        self._by_version: dict[int, RunningClassifier] = {}
        self._loading = asyncio.Lock()
        self._loads: dict[int, asyncio.Task[RunningClassifier]] = {}
        self._pinned: int | None = None
        self._promoted: int | None = None

    def __iter__(self) -> Iterator[RunningClassifier]:
        return iter(list(self._by_version.values()))

    def get(self, version: int) -> RunningClassifier | None:
        """A classifier that is loaded."""
        return self._by_version.get(version)

    def pin(self, version: int) -> None:
        """Keep this one, the champion, loaded; the one before it may go."""
        self._pinned = version

    @contextmanager
    def promoting(self, version: int) -> Iterator[None]:
        """Keep this one, too, as long as the block goes on: it is to be the champion."""
        self._promoted = version
        try:
            yield
        finally:
            self._promoted = None

    def begin(self, version: int, directory: Path) -> RunningClassifier:
        """A classifier that is being started, however often that takes; requests may wait for
        it."""
        running = self._by_version[version] = self._make(version, directory)
        running.begin()
        return running

    async def load(
        self, version: int, directory: Path, *, waits_for_place: bool = False
    ) -> RunningClassifier:
        """A classifier, once its engines run. A caller that goes away does not end the loading.
        ``waits_for_place``: until the clips of the one that must go are answered.

        Raises Problem 409 if all places are in use, 503 if it does not start."""
        if (running := self._by_version.get(version)) is not None:
            return running
        if (task := self._loads.get(version)) is None:
            task = asyncio.create_task(self._load(version, directory, waits_for_place))
            self._loads[version] = task
            task.add_done_callback(lambda _: self._loads.pop(version, None))
        return await asyncio.shield(task)

    async def unload(self, version: int) -> None:
        """Answer the clips that a classifier has, then end its engines. Those that wait for it go
        to another line."""
        if (running := self._by_version.pop(version, None)) is not None:
            await running.line.retire()
            await running.close()

    async def close(self) -> None:
        """End all."""
        for task in list(self._loads.values()):
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        running, self._by_version = list(self._by_version.values()), {}
        await asyncio.gather(*[one.close() for one in running])

    async def _load(
        self, version: int, directory: Path, waits_for_place: bool
    ) -> RunningClassifier:
        async with self._loading:
            await self._make_room(version, waits_for_place)
            running = self._make(version, directory)
            try:
                await running.open()
            except (DeepIntuitError, OSError) as error:
                raise Problem(
                    503,
                    "does-not-start",
                    f"classifier {version} does not start: {error}; its log is in the state "
                    "directory",
                    headers={"Retry-After": "30"},
                ) from error
            self._by_version[version] = running
            return running

    async def _make_room(self, version: int, waits_for_place: bool) -> None:
        while len(self._by_version) >= self.max_loaded:
            stay = (self._pinned, self._promoted)
            others = [one for one in self if one.version not in stay]
            idle = [one for one in others if not one.line.num_inside and not one.line.num_waiting]
            may_go = idle or (others if waits_for_place else [])
            if not may_go:
                raise Problem(
                    409,
                    "not-loaded",
                    f"classifier {version} is not loaded, and there is no place for it: "
                    f"{self.max_loaded} may be (max_loaded), and those that are answer clips; ask "
                    "for one of them, or later",
                    extra={"loaded": [one.version for one in self]},
                )
            await self.unload(min(may_go, key=lambda one: one.used_at).version)
