"""A running service with a scripted classifier as champion, and decisions in it. (No test file.)"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from calibrate.service.caller import SCOPES, Scope
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.protocols import ClipToClassify
from calibrate.service.service import Service
from calibrate.thresholds.held_out import HeldOut
from tests.calibrate.service.deciding import caller
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import DEADLINE_S, Running, make_config, make_parts, running

T = TypeVar("T")


@dataclass
class Asking:
    """The service as callers see it; each name is a person with a token of their own."""

    client: httpx.Client
    running: Running
    backend: ScriptedBackend
    tokens: dict[tuple[str, tuple[Scope, ...]], dict[str, str]]

    def ask(
        self, method: str, path: str, *scopes: Scope, by: str = "ada", **options: Any
    ) -> httpx.Response:
        """The answer to a request of a person whose token has the scopes (none given: all)."""
        who = (by, scopes or SCOPES)
        if who not in self.tokens:
            secret = self.running.service.tokens.create(by, who[1], by="a test")
            self.tokens[who] = {"Authorization": f"Bearer {secret}"}
        return self.client.request(method, path, headers=self.tokens[who], **options)

    def inside(self, call: Callable[[Service], Awaitable[T]]) -> T:
        """Result of a call on the service's own loop."""

        async def run() -> T:
            return await call(self.running.service)

        return asyncio.run_coroutine_threadsafe(run(), self.running.loop).result(DEADLINE_S)

    def decide(self, content: bytes = b"a clip", **changes: Any) -> DecisionRecord:
        """The decision about an upload."""
        view = changes.get("view")

        async def decide(service: Service) -> DecisionRecord:
            async def stream() -> Any:
                yield content

            clip = await service.intake.from_upload(stream(), "a.mp4")
            sample_id = changes.get("sample_id", clip.video_hash)
            window = changes.get("window")
            asked = ClipToClassify(id=sample_id, path=clip.path, window=window)
            answered = await service.serving.classify(asked, view=view)
            return await service.decisions.decide(
                answered,
                clip,
                sample_id=sample_id,
                window=window,
                columns=changes.get("columns", {}),
                caller=caller("a client"),
                request_id="req_1",
                text=changes.get("text"),
                view=view,
            )

        return self.inside(decide)


@contextmanager
def asking(tmp_path: Path, held_out: HeldOut | None = None, **settings: Any) -> Iterator[Asking]:
    """A service whose champion is a scripted classifier."""
    backend = ScriptedBackend()
    published = publish_tiny(tmp_path / "published", held_out=held_out)

    def register(service: Service) -> None:
        version = service.registry.register(published.path, source="a test", by="a test").version
        service.registry.promote(version, by="a test", expected_champion=None, reason="")

    settings = {"audit_share": 0.0, "double_blind_share": 0.0, **settings}
    with (
        running(make_config(tmp_path, **settings), make_parts(backend=backend), register) as up,
        httpx.Client(base_url=up.url, timeout=DEADLINE_S) as client,
    ):
        yield Asking(client, up, backend, {})
