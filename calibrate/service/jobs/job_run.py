"""Run of a job: its processes, one after another until it ends, and what they publish.

fit process -> progress           kept in memory
            -> published          registered, made the challenger
            -> failed, or died    final, or tried again from its checkpoint, at most three times
ask_to_end("cancelled" | "paused") -> SIGTERM, after a grace SIGKILL -> the job ends, or waits
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calibrate.classifier import DESCRIPTION_FILE
from calibrate.service.jobs.fit_spec import Failed, FitSpec, Phase, Published
from calibrate.service.jobs.job import Job, State
from calibrate.service.jobs.process import FitProcess
from calibrate.service.jobs.shares import fit_environment
from wire.disk import naming_full_disk
from wire.errors import DeepIntuitError
from wire.whole_file import write_json

Ending = Literal["cancelled", "paused"]
SPEC_FILE, LOG_FILE = "spec.json", "log.txt"
_DEATHS = 3  # of a job's process, until the job has failed
_LIVED_S = 600.0  # a process that died after so long was no failed start
_TAIL_BYTES = 600  # of the log, in words on a death


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of a job ended with."""

    state: State
    error: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """What a run leaves with those who keep it; cheap calls, made one at a time."""

    started: Callable[[], Awaitable[None]]
    published: Callable[[Published], Awaitable[None]]
    """Registers a classifier; a second time it changes nothing. Raises DeepIntuitError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job runs: its folder, and its share of the machine."""

    folder: Path
    command: Sequence[str]
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    locks: tuple[Path, ...]
    """One per fit that may go on at a time."""

    @property
    def out(self) -> Path:
        """What the fit makes."""
        return self.folder / "out"


class JobRun:
    """Run of a job, from the start of its first process to its end."""

    def __init__(
        self, job: Job, place: Place, keeper: Keeper, *, stop_s: float, retry_s: float
    ) -> None:
        """``stop_s``: that a process has to end in order; ``retry_s``: before it is started
        again, longer each time."""
        self.job, self._place, self._keeper = job, place, keeper
        self._stop_s, self._retry_s = stop_s, retry_s
        self.progress: dict[str, Any] | None = job.progress
        """Phase, parts done and in all, and when it was said."""
        self._process: FitProcess | None = None
        self._ending: Ending | None = None
        self._asked = asyncio.Event()

    async def run(self) -> Outcome:
        """Until it has succeeded, failed, or was asked to end."""
        deaths = 0
        while self._ending is None:
            began = time.monotonic()
            failure = await self._attempt()
            if self._ending is not None:
                break
            if failure is None:
                return Outcome(state="succeeded")
            deaths = 1 if time.monotonic() - began > _LIVED_S else deaths + 1
            if failure.is_final or deaths >= _DEATHS:
                times = "" if failure.is_final else f" ({deaths} times in a row)"
                return Outcome(state="failed", error=failure.error, detail=failure.detail + times)
            await self._pause(self._retry_s * deaths)
        return Outcome(state=self._ending)

    async def ask_to_end(self, ending: Ending) -> None:
        """Let ``run`` return soon; returns when the process has ended. A cancelled job stays so."""
        if self._ending != "cancelled":
            self._ending = ending
        self._asked.set()
        if self._process is not None:
            await self._process.stop(self._stop_s)

    async def _attempt(self) -> Failed | None:
        """One process of the job; what it failed with."""
        try:
            if not self.job.fit.watch and (self._place.out / DESCRIPTION_FILE).is_file():
                # published, and killed before it was registered
                path = str(self._place.out)
                await self._keeper.published(Published(name="classifier", path=path))
                return None
            await asyncio.to_thread(self._write_spec)
            return await self._one_process()
        except DeepIntuitError as error:
            return Failed(error=type(error).__name__, detail=str(error), is_final=True)

    async def _one_process(self) -> Failed | None:
        place, log = self._place, self._place.folder / LOG_FILE
        environment = fit_environment(place.cores, place.gpus)
        process = await FitProcess.start(place.command, place.folder / SPEC_FILE, log, environment)
        self._process = process
        failure: Failed | None = None
        try:
            await self._keeper.started()
            if self._ending is not None:
                await process.stop(self._stop_s)
            async for message in process.messages():
                if isinstance(message, Phase):
                    self._note(message)
                elif isinstance(message, Failed):
                    failure = message
                elif self._ending is None:
                    await self._keeper.published(message)
            status = await process.wait()
        finally:
            self._process = None
            await process.stop(self._stop_s)
        if status == 0:
            return None
        died = f"its process ended with status {status} without a word{_last_words(log)}"
        return failure or Failed(error="WorkerDied", detail=died, is_final=False)

    def _note(self, phase: Phase) -> None:
        self.progress = {
            "phase": phase.phase,
            "done": phase.done,
            "total": phase.total,
            "at": time.time(),
        }

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._asked.wait(), seconds)
        except TimeoutError:
            return

    def _write_spec(self) -> None:
        fit, place = self.job.fit, self._place
        spec = FitSpec(
            source=Path(self.job.source),
            out=place.out,
            watch=fit.watch,
            recipe=Path(fit.recipe) if fit.recipe else None,
            model=Path(fit.model) if fit.model else None,
            stage=fit.stage,
            versions=fit.versions,
            purpose=fit.purpose,
            methods=fit.methods,
            settings=fit.settings,
            allow_foreign=fit.allow_foreign,
            cores=place.cores,
            gpus=place.gpus,
            places=place.locks,
        )
        with naming_full_disk(place.folder):
            write_json(place.folder / SPEC_FILE, spec.model_dump(mode="json"))


def _last_words(log: Path) -> str:
    """The end of a log, in words."""
    try:
        text = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"; the last lines of its log: {' | '.join(lines[-3:])}" if lines else ""
