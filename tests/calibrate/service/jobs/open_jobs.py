"""Jobs over a state directory, with scripted fits. (No test file.)"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.service.caller import Caller
from calibrate.service.config import ServiceConfig
from calibrate.service.jobs import job
from calibrate.service.jobs.jobs import Jobs
from calibrate.service.jobs.new_fit import NewFit
from calibrate.service.state import audit, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from tests.calibrate.classifiers import make_description, publish

CALLER = Caller(token_id="tok_1", name="ada", scopes=frozenset({"fit"}))
SCRIPTED = (sys.executable, "-S", str(Path(__file__).with_name("scripted_fit.py")))
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Opened:
    """Jobs with what they stand on."""

    jobs: Jobs
    registry: Registry
    audit: Audit
    state: Path

    async def until(self, job_id: str, holds: Callable[[job.Job], object]) -> job.Job:
        """A job, as soon as something holds of it."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds(one := await self.jobs.get(job_id)):
                await asyncio.sleep(0.01)
        return one

    async def end_of(self, job_id: str) -> job.Job:
        """A job that has ended."""
        return await self.until(job_id, lambda one: one.has_ended)


@asynccontextmanager
async def open_jobs(tmp_path: Path, **settings: Any) -> AsyncIterator[Opened]:
    """Jobs that have started; closed after the block."""
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    command = settings.pop("command", SCRIPTED)
    times = {"stop_s": settings.pop("stop_s", 5.0), "retry_s": settings.pop("retry_s", 0.05)}
    config = ServiceConfig(**{"state": state, "roots": (tmp_path,), **settings})
    schemas = [audit.SCHEMA, registry.SCHEMA, job.SCHEMA]
    database = Database.open(state / "service.sqlite", schemas)
    log = Audit(database)
    classifiers = Registry(database, log, state / "classifiers")
    jobs = Jobs(database, log, classifiers, config, command, **times)
    try:
        await jobs.start()
        yield Opened(jobs, classifiers, log, state)
    finally:
        await jobs.close()
        database.close()


def make_source(tmp_path: Path, name: str = "run", **script: Any) -> Path:
    """A run whose fits do what ``script`` says (scripted_fit.py), each with classifiers of its
    own."""
    source = tmp_path / name
    source.mkdir()
    (source / "run.json").write_text("{}")
    for number in range(max(1, script.get("candidates", 1))):
        description = make_description(name=f"{name}-{number}")
        publish(tmp_path, out=source / "classifiers" / str(number), description=description)
    (source / "script.json").write_text(json.dumps(script))
    return source


def new_fit(source: Path, **values: Any) -> NewFit:
    return NewFit(source=str(source), **values)


def steps_of(source: Path) -> list[str]:
    """Steps that its fits made, by whichever process."""
    log = source / "steps.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
