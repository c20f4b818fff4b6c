"""Kills at random of a classifier's process while clients ask: each is answered, or ends typed."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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
from tests.calibrate.classifiers import make_calibration
from tests.calibrate.service.fakes import publish_tiny
from tests.cluster.serving.test_worker_client import COMMAND

KILLS, CLIENTS = 5, 20


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Serving]:
    """Serving of a classifier whose process is scripted; it is started again at once."""
    database = Database.open(folder / "service.sqlite", [audit.SCHEMA, registry.SCHEMA])
    kept = Registry(database, Audit(database), folder / "classifiers")
    published = publish_tiny(folder / "published", calibration=make_calibration())
    kept.register(published.path, source="a test", by="a test")
    kept.promote(1, by="a test", expected_champion=None, reason="")
    serving = Serving(
        kept,
        ProcessBackend(ServingMachine(machine=Machine()), folder / "logs", command=COMMAND),
        ServiceConfig(state=folder, max_in_flight=8, request_timeout_s=60),
        restarts=RestartPolicy(most=1000, first_pause_s=0, longest_pause_s=0),
    )
    await serving.start()
    try:
        yield serving
    finally:
        await serving.close()
        database.close()


async def test_kills_at_random_lose_no_request_and_hang_none(tmp_path: Path) -> None:
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

    async with opened(tmp_path) as serving:
        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        draw = random.Random(0)
        async with asyncio.timeout(120):
            for _ in range(KILLS):
                seen = ends["answered"]
                while ends["answered"] < seen + 5 or not serving.is_ready:
                    await asyncio.sleep(0.005)
                await asyncio.sleep(draw.uniform(0, 0.02))
                kill_workers()
            killing = False
            await asyncio.gather(*clients)
        assert (await serving.classify(clip)).evidence.trace
        status = serving.status()["loaded"][0]
    assert set(ends) <= {"answered", "engine-unavailable"}
    assert ends["answered"] >= 5 * KILLS
    assert status["in_flight"] == 0
    assert status["restarts"] >= KILLS // 2, "a process may be killed again as it starts"


def kill_workers() -> None:
    for worker in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a zombie
            if "scripted_worker" in " ".join(worker.cmdline()):
                worker.kill()
