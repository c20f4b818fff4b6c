"""Service in a process of its own, and clients that change it over HTTP until it is killed. (No
test file.)

    service = KilledService(config)                    forked: up in a moment
    clients = Clients(service.url(), ledger, ...)    until the connection breaks
    service.kill()
"""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from calibrate.service.config import ServiceConfig
from calibrate.service.http.app import make_app
from calibrate.service.http.server import serve
from calibrate.service.service import open_service
from tests.calibrate.service.fakes import ScriptedBackend
from tests.calibrate.service.jobs.open_jobs import SCRIPTED
from tests.calibrate.service.running import DEADLINE_S, make_parts

context = multiprocessing.get_context("fork")


@dataclass
class Sent:
    """Request that a client sent, under an Idempotency-Key of its own."""

    path: str
    body: dict[str, Any]
    status: int | None = None
    """None: a kill came before the answer."""
    answer: dict[str, Any] = field(default_factory=dict)

    def take(self, response: httpx.Response) -> None:
        """Note the answer, once all of it is there."""
        self.answer = json.loads(response.content)
        self.status = response.status_code


class KilledService:
    """A service that runs in a forked process."""

    def __init__(self, config: ServiceConfig) -> None:
        ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(config, theirs.send), daemon=True)
        self._process.start()
        theirs.close()
        self._address = ours

    def url(self) -> str:
        """Its address, as soon as it listens."""
        assert self._address.poll(DEADLINE_S), "it does not listen"
        return str(self._address.recv())

    def kill(self) -> None:
        """Kill it, and see that it had not ended before."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(DEADLINE_S)
        assert self._process.exitcode == -signal.SIGKILL, "it ended on its own"


def _serve(config: ServiceConfig, listening: Callable[[str], None]) -> None:
    async def main() -> None:
        parts = make_parts(backend=ScriptedBackend(), fit_command=SCRIPTED)
        async with open_service(config, parts) as service:
            await serve(make_app(service), asyncio.Event(), listening)

    asyncio.run(main())


class Clients:
    """Clients that send one change after the other, each kind in a thread of its own."""

    def __init__(
        self,
        url: str,
        secret: str,
        ledger: dict[str, Sent],
        published: list[Path],
        sources: list[Path],
        seed: int,
    ) -> None:
        self._url, self._secret, self._ledger = url, secret, ledger
        self._published, self._sources, self._seed = published, sources, seed
        kinds = (self._move, self._register, self._fit)
        self._threads = [
            threading.Thread(target=self._run, args=(kind, random.Random(f"{seed}{kind.__name__}")))
            for kind in kinds
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the connections of all have broken."""
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "a request hangs"

    def _run(
        self, change: Callable[[random.Random], tuple[str, dict[str, Any]]], draw: Any
    ) -> None:
        with connected(self._url, self._secret) as client:
            for number in range(10**6):
                tag = f"{self._seed}-{change.__name__}-{number}"
                path, body = change(draw)
                if "reason" in body:
                    body["reason"] = tag
                self._ledger[tag] = sent = Sent(path, body)
                try:
                    sent.take(send(client, tag, sent))
                    if path == "/v1/fits":
                        until_ended(client, sent.answer["id"])
                except httpx.TransportError:
                    return

    def _move(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        if draw.random() < 0.3:
            return "/v1/aliases/champion/rollback", {"reason": ""}
        return f"/v1/classifiers/{draw.randint(1, 8)}/promote", {"reason": ""}

    def _register(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        if draw.random() < 0.3:
            return "/v1/tokens", {"name": "a test", "scopes": ["read"]}
        return "/v1/classifiers", {"path": str(draw.choice(self._published))}

    def _fit(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        return "/v1/fits", {"source": str(draw.choice(self._sources))}


def connected(url: str, secret: str) -> httpx.Client:
    """Client of a caller."""
    return httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=DEADLINE_S
    )


def until_ended(client: httpx.Client, fit_id: str) -> dict[str, Any]:
    """A fit that has ended."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        fit: dict[str, Any] = client.get(f"/v1/fits/{fit_id}").json()
        if fit["ended_at"] is not None:
            return fit
        time.sleep(0.02)
    raise AssertionError(f"fit {fit_id} does not end: {fit}")


def send(client: httpx.Client, tag: str, sent: Sent) -> httpx.Response:
    """Response to a request, whose Idempotency-Key is its tag."""
    return client.post(sent.path, json=sent.body, headers={"Idempotency-Key": tag})
