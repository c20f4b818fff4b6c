"""Kills at random of a classifier's process while clients ask: each is answered, or ends typed."""

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from calibrate.service.config import ServiceConfig
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipToClassify
from calibrate.service.serving.restarts import RestartPolicy
from calibrate.service.serving.serving import Serving
from calibrate.service.state import audit, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.machine import ServingMachine
from tests.calibrate.service.fakes import publish_tiny
from tests.cluster.serving.test_worker_client import COMMAND

KILLS, CLIENTS = 12, 20


async def test_twelve_kills_at_random_lose_no_request_and_hang_none(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "service.sqlite", [audit.SCHEMA, registry.SCHEMA])
    kept = Registry(database, Audit(database), tmp_path / "classifiers")
    kept.register(publish_tiny(tmp_path / "published").path, source="a test", by="a test")
    kept.promote(1, by="a test", expected_champion=None, reason="")
    backend = ProcessBackend(ServingMachine(machine=Machine()), tmp_path / "logs", command=COMMAND)
    config = ServiceConfig(state=tmp_path, max_in_flight=8, request_timeout_s=30)
    serving = Serving(
        kept, backend, config, restarts=RestartPolicy(most=1000, first_pause_s=0, longest_pause_s=0)
    )
    await serving.start()
    clip = ClipToClassify(id="a", path=tmp_path / "a.mp4")
    clip.path.write_text("slow:0.005")
    ends: Counter[str] = Counter()
    killing = True

    async def client(number: int) -> None:
        while killing:
            try:
                answered = await serving.classify(clip, caller=str(number % 3))
            except Problem as problem:
                ends[problem.slug] += 1
            else:
                assert answered.evidence.trace.startswith("1 a ")
                ends["answered"] += 1

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    draw, killed = random.Random(0), set[int]()
    while len(killed) < KILLS:
        await asyncio.sleep(draw.uniform(0.05, 0.3))
        for worker in psutil.Process().children():
            if "scripted_worker" in " ".join(worker.cmdline()):
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.add(worker.pid)
    killing = False
    async with asyncio.timeout(20):
        await asyncio.gather(*clients)
    assert set(ends) <= {"answered", "engine-unavailable"}
    assert ends["answered"] > CLIENTS * 3
    assert serving.status()["loaded"][0]["in_flight"] == 0
    assert (await serving.classify(clip)).evidence.trace
    await serving.close()
    database.close()
