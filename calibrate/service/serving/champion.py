"""The champion and how it changes: the new one is loaded, then the registry changed; no clip fails.

room for two    load the new beside the old -> registry -> new clips go to the new one
room for one    hold the clips that come -> close the old -> open the new -> registry -> let go
                (the new one does not open: the old one is opened again, all stays as it was)
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from calibrate.service.serving.loaded import LoadedClassifiers
from calibrate.service.serving.running import RunningClassifier
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.service.state.registry import Promotion, Registry

T = TypeVar("T")
CHAMPION = "champion"


class Champion:
    """The version that answers unless a request names another one."""

    def __init__(self, registry: Registry, loaded: LoadedClassifiers) -> None:
        self._registry, self._loaded = registry, loaded
        self.current: RegisteredClassifier | None = None
        self._gate = asyncio.Event()  # closed: clips wait until the exchange has ended
        self._gate.set()
        self._changing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")

    async def begin(self) -> None:
        """Begin to load the registry's champion, if it has one."""
        aliases = await self._in_thread(self._registry.aliases)
        if CHAMPION in aliases:
            champion = await self._in_thread(self._registry.get, CHAMPION)
            self._loaded.begin(champion.version, champion.path)
            self._set(champion)

    def close(self) -> None:
        """End its thread."""
        self._thread.shutdown(wait=False)

    async def registered(self, classifier: str) -> RegisteredClassifier:
        """The version of a number or an alias. Raises Problem 404."""
        if classifier == CHAMPION and self.current is not None:
            return self.current
        return await self._in_thread(self._registry.get, classifier)

    async def running(self, classifier: str) -> tuple[RegisteredClassifier, RunningClassifier]:
        """A version and its engines, which are loaded if need be. Raises Problem 404, 409, 503."""
        registered = await self.registered(classifier)
        await self._gate.wait()
        if classifier == CHAMPION and self.current is not None:
            registered = self.current
        return registered, await self._loaded.load(registered.version, registered.path)

    async def promote(
        self, version: int, *, by: str, reason: str, expected_champion: int | None
    ) -> Promotion:
        """Make a version champion; a caller that goes away does not stop it half way."""

        def commit() -> Promotion:
            return self._registry.promote(
                version, by=by, expected_champion=expected_champion, reason=reason
            )

        change = self._change(str(version), commit, expected_champion)
        return await asyncio.shield(asyncio.create_task(change))

    async def roll_back(self, *, by: str, reason: str, expected_champion: int | None) -> Promotion:
        """Make the previous one champion again."""

        def commit() -> Promotion:
            return self._registry.roll_back(
                by=by, reason=reason, expected_champion=expected_champion
            )

        change = self._change("previous", commit, expected_champion)
        return await asyncio.shield(asyncio.create_task(change))

    async def _change(
        self, ref: str, commit: Callable[[], Promotion], expected: int | None = None
    ) -> Promotion:
        async with self._changing:
            aliases, old = await self._in_thread(self._registry.aliases), self.current
            if ref == "previous" and ref not in aliases:
                return await self._in_thread(commit)  # it refuses
            new = await self._in_thread(self._registry.get, ref)
            if expected is not None and expected != aliases.get(CHAMPION):
                return await self._in_thread(commit)  # it refuses
            if old is None or self._loaded.max_loaded > 1 or new.version == old.version:
                with self._loaded.promoting(new.version):
                    await self._loaded.load(new.version, new.path, waits_for_place=True)
                    promotion = await self._in_thread(commit)
                    self._set(new)
                    return promotion
            return await self._exchange(old, new, commit)

    async def _exchange(
        self, old: RegisteredClassifier, new: RegisteredClassifier, commit: Callable[[], Promotion]
    ) -> Promotion:
        self._gate.clear()
        try:
            await self._loaded.unload(old.version)
            await self._loaded.load(new.version, new.path)
            promotion = await self._in_thread(commit)
            self._set(new)
        except BaseException:
            await self._loaded.unload(new.version)
            self._loaded.begin(old.version, old.path)
            raise
        finally:
            self._gate.set()
        return promotion

    def _set(self, champion: RegisteredClassifier) -> None:
        self.current = champion
        self._loaded.pin(champion.version)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
