"""A service that classifies, for tests: real HTTP, a scripted champion, a root with clips. (No test
file.)"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from calibrate.service.caller import SCOPES, Scope
from calibrate.service.service import Service
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import (
    DEADLINE_S,
    Running,
    make_config,
    make_parts,
    running,
)


@dataclass(frozen=True)
class Classifying:
    """The service, what answers in it, and a root whose clips it may read."""

    running: Running
    backend: ScriptedBackend
    root: Path

    @property
    def url(self) -> str:
        return self.running.url

    def token(self, *scopes: Scope) -> str:
        """Secret of a new token; all scopes if none is given."""
        return self.running.service.tokens.create("a test", scopes or SCOPES, by="a test")

    def clip(self, name: str, content: bytes | None = None) -> Path:
        """A file of the root; its bytes command the scripted engine."""
        path = self.root / name
        path.write_bytes(content if content is not None else name.encode())
        return path


@contextmanager
def classifying(
    folder: Path, *, backend: ScriptedBackend | None = None, versions: int = 1, **settings: Any
) -> Iterator[Classifying]:
    """A service over ``folder``'s state that is ready; started again, it goes on with what is
    there."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    backend = backend or ScriptedBackend()
    config = make_config(folder, roots=(root,), **settings)

    def prepare(service: Service) -> None:
        if service.registry.list():
            return
        for number in range(versions):
            classifier = publish_tiny(folder / "published", f"v{number + 1}")
            service.registry.register(classifier.path, source="test", by="test")
        service.registry.promote(1, by="test", expected_champion=None, reason="test")

    with running(config, make_parts(backend=backend), prepare) as service:
        end = time.monotonic() + DEADLINE_S
        while httpx.get(f"{service.url}/v1/health/ready", trust_env=False).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield Classifying(service, backend, root)
