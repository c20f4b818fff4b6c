"""Kill -9 of the service a hundred times, at random, while it fits, registers and promotes; and now
and then of a fit's process alone."""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from calibrate.service.problems import Problem
from tests.calibrate.service.jobs.open_jobs import (
    CALLER,
    Opened,
    make_source,
    new_fit,
    open_jobs,
    steps_of,
)

KILLS = 100
STEPS = 25
CANDIDATES = 3
context = multiprocessing.get_context("fork")


async def promote_whatever_is_proposed(opened: Opened) -> None:
    while True:
        with suppress(Problem):  # nothing is proposed now
            challenger = opened.registry.get("challenger").version
            opened.registry.promote(challenger, by="ada", expected_champion=None, reason="better")
        await asyncio.sleep(0.005)


def serve(tmp_path: Path) -> None:
    """A service until it is killed."""

    async def main() -> None:
        async with open_jobs(tmp_path, max_fits=1, retry_s=0.01) as opened:
            await promote_whatever_is_proposed(opened)

    asyncio.run(main())


def kill_at_random(tmp_path: Path, sources: list[Path], draw: random.Random) -> None:
    """Start a service, and kill it after a moment; in a third of the cases the fits first."""
    service = context.Process(target=serve, args=(tmp_path,))
    service.start()
    time.sleep(draw.uniform(0.02, 0.6))
    if draw.random() < 0.3:
        for source in sources:
            with suppress(OSError, ValueError, ProcessLookupError):
                os.kill(json.loads((source / "spec.json").read_text())["pid"], signal.SIGKILL)
        time.sleep(draw.uniform(0.0, 0.2))
    assert service.pid is not None
    assert service.is_alive(), "it ended by itself"
    os.kill(service.pid, signal.SIGKILL)
    service.join()


@pytest.mark.slow
async def test_after_a_hundred_kills_every_fit_has_ended_once_and_there_is_one_champion(
    tmp_path: Path,
):
    draw = random.Random(7)
    fits = [make_source(tmp_path, f"run{n}", steps=STEPS, step_s=0.03) for n in range(6)]
    run = make_source(tmp_path, "watched", steps=STEPS, step_s=0.03, candidates=CANDIDATES)
    async with open_jobs(tmp_path) as opened:
        ids = [(await opened.jobs.submit(new_fit(source), CALLER)).id for source in fits]
        watcher = (await opened.jobs.submit(new_fit(run, watch=True), CALLER)).id
    for _ in range(KILLS):
        await asyncio.to_thread(kill_at_random, tmp_path, [*fits, run], draw)
    (run / "ended").touch()
    async with open_jobs(tmp_path) as opened:
        jobs = [await opened.end_of(job_id) for job_id in ids]
        watched = await opened.end_of(watcher)
        assert [job.state for job in (*jobs, watched)] == ["succeeded"] * (len(jobs) + 1)
        assert [len(job.classifiers) for job in (*jobs, watched)] == [1] * len(jobs) + [CANDIDATES]
        registered = opened.registry.list()
        names = Counter(one.name for one in registered)
        expected = [f"run{n}-0" for n in range(len(fits))]
        expected += [f"watched-{n}" for n in range(CANDIDATES)]
        assert names == Counter(expected), "each once, none lost"
        assert [one.version for one in registered] == list(range(1, len(registered) + 1))
        versions = {one.version for job in (*jobs, watched) for one in job.classifiers}
        assert versions == {one.version for one in registered}
        assert opened.audit.verify() is None
        assert set(opened.registry.aliases()) <= {"champion", "challenger", "previous"}
        assert opened.registry.get("champion").version in versions
        assert sum(job.starts for job in (*jobs, watched)) > KILLS / 2, "kills hit fits"
    for job in (*jobs, watched):  # those who clean up have ended
        left = {entry.name for entry in (tmp_path / "state/fits" / job.id).iterdir()}
        assert left == {"spec.json", "log.txt"}
    for source, count in [*((one, 1) for one in fits), (run, CANDIDATES)]:
        made = Counter(steps_of(source))
        assert len(made) == STEPS * count, "every step was made"
        # a step may be made twice only if a kill came between it and its checkpoint
        assert sum(made.values()) <= STEPS * count + KILLS // 10
