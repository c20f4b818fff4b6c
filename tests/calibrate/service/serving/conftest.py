import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.config import ServiceConfig
from calibrate.service.protocols import ClipToClassify
from calibrate.service.serving.restarts import RestartPolicy
from calibrate.service.serving.serving import Serving
from calibrate.service.state import audit, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny

SOON = RestartPolicy(most=4, cool_down_s=0.2, first_pause_s=0.01, longest_pause_s=0.05)


class Bench:
    """Serving of the classifiers first (champion), second and third, with a scripted backend."""

    def __init__(self, folder: Path, serving: Serving, kept: Registry, backend: Any) -> None:
        self.folder, self.serving, self.registry = folder, serving, kept
        self.backend: ScriptedBackend = backend

    def clip(self, content: bytes | str = b"clip", name: str = "") -> ClipToClassify:
        content = content.encode() if isinstance(content, str) else content
        path = self.folder / (name or f"clip-{abs(hash(content))}.mp4")
        path.write_bytes(content)
        return ClipToClassify(id=path.name, path=path)

    async def ready(self) -> None:
        await self.until(lambda: self.serving.is_ready)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)

    async def asked(self, num: int) -> None:
        """Until the engines have been asked about so many clips."""
        await self.until(lambda: len(self.backend.asked) >= num)


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in ("first", "second", "third"):
        publish_tiny(folder, name, reference=True)
    return folder


@pytest.fixture
def open_bench(tmp_path: Path, published: Path) -> Open:
    @asynccontextmanager
    async def opened(backend: Any = None, **settings: Any) -> AsyncIterator[Bench]:
        database = Database.open(tmp_path / "s.sqlite", [audit.SCHEMA, registry.SCHEMA])
        kept = Registry(database, Audit(database), tmp_path / "classifiers")
        if not kept.list():
            for name in ("first", "second", "third"):
                kept.register(published / name, source=name, by="test")
            kept.promote(1, by="test", expected_champion=None, reason="")
        backend = backend or ScriptedBackend()
        config = ServiceConfig(state=tmp_path, **settings)
        serving = Serving(kept, backend, config, restarts=SOON)
        try:
            await serving.start()
            yield Bench(tmp_path, serving, kept, backend)
        finally:
            await serving.close()
            database.close()

    return opened
