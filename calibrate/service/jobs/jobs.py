"""Jobs: fits that callers asked for, queued, run beside the answers, and kept over kills.

    submit -> queued -> a process of its own, with its share of the machine -> registered, proposed

At most ``max_fits`` fits go on at a time; standing ones (``watch``) wait for their run most of the
time, and take a place only while they fit. A stop of the service pauses what runs, a kill breaks it
off: either way the next start goes on from the fit's checkpoint.
"""

import asyncio
import logging
import os
import secrets
import shutil
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from calibrate.service.caller import Caller
from calibrate.service.config import ServiceConfig
from calibrate.service.jobs import job as table
from calibrate.service.jobs.fit_spec import Published
from calibrate.service.jobs.job import Job, JobClassifier, State
from calibrate.service.jobs.job_run import LOG_FILE, SPEC_FILE, JobRun, Keeper, Outcome, Place
from calibrate.service.jobs.new_fit import NewFit, allowed_path, refuse_mixed, source_path
from calibrate.service.jobs.process import kill_fit
from calibrate.service.jobs.shares import fit_cores
from calibrate.service.metrics import Metrics
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit, utc_now
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from wire.strict_json import to_json

log = logging.getLogger(__name__)
_MAX_WATCHERS = 4
_MAX_QUEUED = 100
_KEPT = (SPEC_FILE, LOG_FILE, "watch.jsonl")  # of a job that has ended


class Jobs:
    """Jobs of the service."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        registry: Registry,
        config: ServiceConfig,
        fit_command: Sequence[str],
        *,
        stop_s: float = 20.0,
        retry_s: float = 2.0,
    ) -> None:
        """``fit_command``: begins a fit's process, the path of its specification follows;
        ``stop_s``: that a process has to end in order; ``retry_s``: until one that died is started
        again."""
        self._database, self._audit, self._registry = database, audit, registry
        self._config, self._command = config, tuple(fit_command)
        self._stop_s, self._retry_s = stop_s, retry_s
        self._folder = config.state / "fits"
        self._cores = fit_cores(sorted(os.sched_getaffinity(0)), config)
        self._runs: dict[str, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._filling = asyncio.Lock()
        self._is_open = False

    def add_metrics(self, metrics: Metrics) -> None:
        """Add the gauge of fits."""
        metrics.watch("fits_running", "Fits that go on, standing ones too.", self._runs.__len__)

    async def start(self) -> None:
        """Go on with what an earlier service has left, and with what waits."""
        await self._database.run(self._recover)
        self._is_open = True
        await self._fill()

    async def close(self) -> None:
        """Pause what runs; returns when no process is left."""
        self._is_open = False
        async with self._filling:
            pass
        await asyncio.gather(*(run.ask_to_end("paused") for run in [*self._runs.values()]))
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def submit(self, fit: NewFit, caller: Caller) -> Job:
        """Queue a fit. Raises Problem 403, 404, 422 for what cannot be fitted, 429 if too many
        wait."""
        job = await self._database.run(partial(self._insert, fit, caller))
        await self._fill()
        return await self.get(job.id)

    async def get(self, job_id: str) -> Job:
        """A job. Raises Problem 404."""
        return await self._database.run(partial(self._get, job_id))

    async def page(
        self, *, states: tuple[State, ...] = table.STATES, before: int | None = None, limit: int
    ) -> Sequence[Job]:
        """Jobs in some states, the newest first; ``before``: of lower numbers only."""

        def read() -> Sequence[Job]:
            with self._database.read() as connection:
                return table.select(
                    connection, states, before=before, limit=limit, newest_first=True
                )

        return await self._database.run(read)

    def progress_of(self, job: Job) -> dict[str, Any] | None:
        """How far a job is, as its process last said; None: it has not begun."""
        run = self._runs.get(job.id)
        return job.progress if run is None else run.progress

    async def log_tail(self, job: Job, num_bytes: int) -> str:
        """The last bytes that its processes have logged; empty before the first."""

        def read() -> str:
            try:
                with (self._folder / job.id / LOG_FILE).open("rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
                    return file.read().decode(errors="replace")
            except FileNotFoundError:
                return ""

        return await self._database.run(read)

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel a job: one that waits at once, one that runs as soon as its process has ended.
        What it has registered stays. Raises Problem 404; 409 if it has succeeded or failed."""
        async with self._filling:  # so that it does not start meanwhile
            job = await self._database.run(partial(self._note_cancel, job_id, caller))
            if (run := self._runs.get(job_id)) is not None:
                self._spawn(run.ask_to_end("cancelled"))
            elif not job.has_ended:
                outcome = Outcome(state="cancelled")
                await self._database.run(partial(self._end, job, outcome, job.progress))
        return await self.get(job_id)

    def _insert(self, fit: NewFit, caller: Caller) -> Job:
        refuse_mixed(fit)
        source = source_path(fit, self._config)
        places = {
            name: str(allowed_path(text, self._config.roots))
            for name in ("recipe", "model")
            if (text := getattr(fit, name))
        }
        fit = fit.model_copy(update=places)
        job_id = f"fit_{secrets.token_hex(8)}"
        with self._database.write() as connection:
            if len(table.select(connection, ("queued",))) >= _MAX_QUEUED:
                raise Problem(
                    429,
                    "too-many-fits",
                    f"{_MAX_QUEUED} fits wait already; cancel some, or wait for them to end",
                    headers={"Retry-After": "60"},
                )
            row = {
                "id": job_id,
                "state": "queued",
                "watch": fit.watch,
                "fit": fit.model_dump_json(),
                "source": str(source),
                "created_at": utc_now(),
                "created_by": caller.name,
            }
            table.insert(connection, row)
            detail = {"source": str(source), "watch": fit.watch}
            self._audit.append(connection, caller.name, "fit.submitted", f"fits/{job_id}", detail)
        return self._get(job_id)

    def _get(self, job_id: str) -> Job:
        with self._database.read() as connection:
            job = table.find(connection, job_id)
        if job is None:
            raise Problem(404, "no-such-fit", f"there is no fit {job_id[:80]!r}; list them")
        return job

    def _note_cancel(self, job_id: str, caller: Caller) -> Job:
        job = self._get(job_id)
        with self._database.write() as connection:
            job = table.find(connection, job_id) or job
            if job.state in ("succeeded", "failed"):
                raise Problem(
                    409, "fit-ended", f"the fit has {job.state} already; there is nothing to cancel"
                )
            if job.cancelled_by is None:
                table.update(connection, job_id, {"cancelled_by": caller.name})
                self._audit.append(connection, caller.name, "fit.cancelled", f"fits/{job_id}", {})
        return job

    async def _fill(self) -> None:
        """Start what waits, as far as there are places."""
        async with self._filling:
            for watch, most in ((False, self._config.max_fits), (True, _MAX_WATCHERS)):
                busy = sum(run.job.fit.watch is watch for run in self._runs.values())
                if self._is_open and busy < most:
                    call = partial(self._take_queued, watch, most - busy)
                    for job in await self._database.run(call):
                        self._runs[job.id] = run = self._run_of(job)
                        self._spawn(self._perform(run))

    def _take_queued(self, watch: bool, count: int) -> Sequence[Job]:
        with self._database.write() as connection:
            jobs = table.select(connection, ("queued",), watch=watch, limit=count)
            for job in jobs:
                began = job.started_at or utc_now()
                table.update(connection, job.id, {"state": "running", "started_at": began})
        return jobs

    def _run_of(self, job: Job) -> JobRun:
        place = Place(
            folder=self._folder / job.id,
            command=self._command,
            cores=self._cores,
            gpus=self._config.fit_gpus,
            locks=tuple(
                self._folder / f".place-{number}" for number in range(self._config.max_fits)
            ),
        )

        async def started() -> None:
            await self._database.run(partial(self._note_start, job.id))

        async def published(one: Published) -> None:
            await self._database.run(partial(self._register, job, one))

        keeper = Keeper(started=started, published=published)
        return JobRun(job, place, keeper, stop_s=self._stop_s, retry_s=self._retry_s)

    async def _perform(self, run: JobRun) -> None:
        """Run a job to its end, whatever that is."""
        try:
            outcome = await run.run()
        except Exception as error:
            log.exception("job %s", run.job.id)
            outcome = Outcome(state="failed", error=type(error).__name__, detail=str(error))
        try:
            await self._database.run(partial(self._end, run.job, outcome, run.progress))
        except (OSError, sqlite3.Error):  # the next start of the service takes the job up again
            log.exception("the end of job %s cannot be kept", run.job.id)
        del self._runs[run.job.id]
        await self._fill()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_start(self, job_id: str) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE jobs SET starts = starts + 1 WHERE id = ?", (job_id,))

    def _register(self, job: Job, published: Published) -> None:
        """Register what a job has published, and propose it. A kill in between leaves what the next
        call makes whole: a registered classifier is found again by its hash."""
        with self._database.read() as connection:
            known = table.find(connection, job.id)
        if known is not None and published.name in {one.name for one in known.classifiers}:
            return
        source = f"{job.id}: {published.name} of {job.source}"
        version = self._registry.register(
            Path(published.path), source=source, by=job.created_by
        ).version
        proposed = job.fit.propose and self._propose(version, job)
        one = JobClassifier(name=published.name, version=version, proposed=proposed)
        with self._database.write() as connection:
            table.add_classifier(connection, job.id, one)

    def _propose(self, version: int, job: Job) -> bool:
        try:
            self._registry.set_challenger(version, by=job.created_by)
        except Problem as problem:  # a fit of the same traces to the same bits
            if problem.slug != "already-champion":
                raise
            return False
        return True

    def _end(self, job: Job, outcome: Outcome, progress: dict[str, Any] | None) -> None:
        """Note how a run ended, and remove what is of no use any more."""
        has_ended = outcome.state in table.ENDED
        values = {
            "state": outcome.state,
            "error": outcome.error,
            "detail": outcome.detail,
            "progress": to_json(progress) if progress else None,
            "ended_at": utc_now() if has_ended else None,
        }
        with self._database.write() as connection:
            table.update(connection, job.id, values)
            if has_ended:
                detail = {"error": outcome.error, "detail": outcome.detail}
                actor = job.created_by
                self._audit.append(
                    connection, actor, f"fit.{_ENDS[outcome.state]}", f"fits/{job.id}", detail
                )
        if has_ended:
            self._clean(job)

    def _clean(self, job: Job) -> None:
        folder = self._folder / job.id
        decisions = folder / "out" / "watch.jsonl"
        if decisions.is_file():
            decisions.replace(folder / decisions.name)
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name not in _KEPT:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)

    def _recover(self) -> None:
        """What a service that was killed or stopped has left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._database.read() as connection:
            left = table.select(connection, ("running", "paused", "queued"))
            ended = table.select(connection, table.ENDED)
        for job in left:
            kill_fit(self._folder / job.id / SPEC_FILE)
            if job.cancelled_by is not None:
                self._end(job, Outcome(state="cancelled"), job.progress)
            elif job.state != "queued":
                with self._database.write() as connection:
                    table.update(connection, job.id, {"state": "queued"})
        for job in ended:
            self._clean(job)


_ENDS: dict[State, str] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "stopped",
}
