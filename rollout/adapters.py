"""LoRA adapters that one engine holds: versions of the policy, loaded, served and dropped.

    load (beside the others) -> probe -> serve (new requests) -> its last request ends -> drop

A request keeps the adapter that it began with, so nothing pauses and no trace mixes two versions.
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np

from rollout.engine import Engine
from rollout.lora import Adapter
from wire.adapters import CONFIG_NAME, WEIGHTS_NAME, AdapterFiles
from wire.errors import DeadlineExceeded, WeightUpdateError
from wire.shared_memory import SharedBuffer
from wire.types import PolicyVersion


class _Folder:
    """A folder with the two files of an adapter. Their bytes are in memory and have no name, so
    that a process that is killed leaves no more than two dead links."""

    def __init__(self, files: AdapterFiles) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="deepintuit-adapter-")
        self.path = self._folder.name
        self._buffers = []
        for name, data in ((CONFIG_NAME, files.config), (WEIGHTS_NAME, files.weights)):
            buffer = SharedBuffer(len(data))
            buffer.data[:] = np.frombuffer(data, dtype=np.uint8)
            Path(self.path, name).symlink_to(buffer.path)
            self._buffers.append(buffer)

    def close(self) -> None:
        """Free the files; the adapter is not read any more."""
        self._buffers.clear()
        self._folder.cleanup()


class _Held:
    """A loaded adapter, the requests that use it, and its files."""

    def __init__(self, adapter: Adapter, folder: _Folder) -> None:
        self.adapter, self.folder = adapter, folder
        self.requests = 0


class Adapters:
    """Adapters of one engine: new requests get the one served last; an older one stays until its
    requests end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: list[_Held] = []
        self._serving: _Held | None = None
        self._count = 0

    @property
    def versions(self) -> list[PolicyVersion]:
        """Versions in the engine, oldest first."""
        return [held.adapter.version for held in self._held]

    async def load(self, version: PolicyVersion, files: AdapterFiles) -> None:
        """Check an adapter and give it to the engine; no request uses it before :meth:`serve`.

        Raises WeightUpdateError, DeadlineExceeded: then all is as before.
        """
        files.check()
        self._count += 1
        folder = _Folder(files)
        adapter = Adapter(number=self._count, version=version, path=folder.path)
        try:
            await self._engine.load_adapter(adapter)
        except BaseException:
            folder.close()
            raise
        self._held.append(_Held(adapter, folder))
        await self._drop_unused()  # such as one whose probe failed

    async def serve(self, version: PolicyVersion) -> None:
        """Give new requests this version; older ones go as their requests end."""
        self._serving = self._loaded(version)
        await self._drop_unused()

    def newest(self) -> AbstractAsyncContextManager[Adapter | None]:
        """The adapter for one request, kept until the block ends; None before the first."""
        return self._in_use(self._serving)

    def of(self, version: PolicyVersion) -> AbstractAsyncContextManager[Adapter | None]:
        """The adapter of a version, served or not, for the parity probe. Raises
        WeightUpdateError."""
        return self._in_use(self._loaded(version))

    @contextlib.asynccontextmanager
    async def _in_use(self, held: _Held | None) -> AsyncIterator[Adapter | None]:
        if held is None:
            yield None
            return
        held.requests += 1
        try:
            yield held.adapter
        finally:
            held.requests -= 1
            await self._drop_unused()

    def _loaded(self, version: PolicyVersion) -> _Held:
        """The last loaded adapter of this version, which may have been sent again."""
        for held in reversed(self._held):
            if held.adapter.version == version:
                return held
        raise WeightUpdateError(f"the engine holds no adapter of version {version}")

    async def _drop_unused(self) -> None:
        """Drop adapters without requests, but not the last one: it is about to be served."""
        unused = [h for h in self._held[:-1] if h is not self._serving and not h.requests]
        self._held = [held for held in self._held if held not in unused]
        for held in unused:
            held.folder.close()
            with contextlib.suppress(WeightUpdateError, DeadlineExceeded):
                # vLLM itself drops the least used where it lacks room; nothing asks for this one
                await self._engine.drop_adapter(held.adapter)
