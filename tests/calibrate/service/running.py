"""A service that runs, for tests: real uvicorn in a thread, parts as the test gives them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from calibrate.service.caller import SCOPES, Scope
from calibrate.service.config import ServiceConfig
from calibrate.service.http.app import make_app
from calibrate.service.http.server import serve
from calibrate.service.protocols import ClipFacts, OpenClassifier, TracePage
from calibrate.service.service import Parts, Service, open_service
from wire.errors import ClipError, DataError, GenerationError

DEADLINE_S = 30


@dataclass(frozen=True)
class Running:
    """A service that runs, for a test in another thread."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop
    stop: Callable[[], None]

    def headers(self, *scopes: Scope) -> dict[str, str]:
        """Headers of a caller with these scopes (none given: all)."""
        secret = self.service.tokens.create("a test", scopes or SCOPES, by="a test")
        return {"Authorization": f"Bearer {secret}"}


class NoBackend:
    """Backend that starts nothing."""

    async def open(self, directory: Path) -> OpenClassifier:
        raise GenerationError(f"{directory}: this backend starts nothing")

    async def close(self) -> None:
        pass


class AnyInspector:
    """Inspector for which every file is the same clip."""

    async def inspect(self, path: Path) -> ClipFacts:
        return ClipFacts(seconds=1.0, frames=8, width=32, height=32, codec="h264")

    async def frames(self, path: Path, numbers: Sequence[int]) -> list[bytes]:
        raise ClipError(f"{path}: this inspector decodes nothing")

    async def close(self) -> None:
        pass


class NoTraces:
    """Browser without archives."""

    def names(self) -> list[str]:
        return []

    def summary(self, archive: str) -> dict[str, Any]:
        raise DataError(f"there is no archive {archive}")

    def page(self, archive: str, where: Sequence[str], limit: int, cursor: str | None) -> TracePage:
        raise DataError(f"there is no archive {archive}")

    def trace(self, archive: str, trace_id: str) -> dict[str, Any]:
        raise DataError(f"there is no archive {archive}")


def make_parts(**parts: Any) -> Parts:
    """Parts, small ones where the test gives none."""
    small: dict[str, Any] = {
        "backend": NoBackend(),
        "inspector": AnyInspector(),
        "traces": NoTraces(),
        "fit_command": ("false",),
    }
    return Parts(**{**small, **parts})


def make_config(tmp_path: Path, **settings: Any) -> ServiceConfig:
    """Settings of a service whose state is in a test's folder, on a free port."""
    return ServiceConfig(**{"state": tmp_path / "state", "port": 0, **settings})


@contextmanager
def running(
    config: ServiceConfig,
    parts: Parts | None = None,
    prepare: Callable[[Service], None] | None = None,
    routers: Sequence[APIRouter] = (),
) -> Iterator[Running]:
    """The service, on a free port; ``prepare`` is
    called with it before it listens; ``routers`` are further routes."""
    up: Future[Running] = Future()

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with open_service(config, parts or make_parts()) as service:
            if prepare is not None:
                prepare(service)
            app = make_app(service)
            for router in routers:
                app.include_router(router)

            def listening(url: str) -> None:
                end = partial(loop.call_soon_threadsafe, stop.set)
                up.set_result(Running(url, service, loop, end))

            await serve(app, stop, listening)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: asyncio.run(main()))
        wait([up, ended], DEADLINE_S, return_when=FIRST_COMPLETED)
        if ended.done():
            ended.result()
        service = up.result(0)
        try:
            yield service
        finally:
            if not ended.done():
                service.stop()
            ended.result(DEADLINE_S)
