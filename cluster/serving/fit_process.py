"""Process of a fit job: fits once, or follows a run, and says how far it is on stdout.

    python -m cluster.serving.fit_process SPEC.json

    SIGTERM            -> stops in order, its checkpoints kept      (status 130)
    the end of stdin   -> the service is gone: ends at once, with all processes below it
    a lock of `places` -> held while it fits, so that no more fits go on than the service allows

The other end is ``calibrate/service/jobs/``; what goes between them, its ``fit_spec.py``.
"""

import asyncio
import fcntl
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from calibrate.service.jobs.fit_spec import (
    INTERRUPTED,
    Failed,
    FitSpec,
    Phase,
    Published,
    message_line,
)
from cluster.config.recipe import RunConfig
from cluster.driver import interrupts
from cluster.driver.progress import Progress, error_console, progress_listener
from cluster.fitting.cores import keep_to, with_threads
from cluster.fitting.fit import FitOrder, fit_from_archive
from cluster.fitting.learner_session import open_learner
from cluster.fitting.open_watcher import open_watcher
from cluster.fitting.source import FitRequest, fit_order
from cluster.fitting.watch import CandidateFit, CandidateFitter
from wire.disk import REMEDY, full_disk
from wire.errors import ConfigError, DeepIntuitError, DiskFull, UserError, root_causes
from wire.types import Purpose

FAILED = 1
_EVERY_S = 0.5  # between two messages on the same phase
_LOOK_S = 0.5  # for a free place


def main(arguments: Sequence[str]) -> int:
    """Fit what the specification at ``arguments[0]`` says. Returns the exit status."""
    spec = FitSpec.model_validate_json(Path(arguments[0]).read_bytes())
    teller = Teller(_own_stdout())
    threading.Thread(target=_end_with_service, name="service", daemon=True).start()
    keep_to(spec.cores)
    _die_first()
    interrupts.listen()
    try:
        with progress_listener(teller.progress):
            _watch(spec, teller) if spec.watch else _fit(spec, teller)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the service says what happens next: again, or failed
        traceback.print_exc()
        teller.tell(_failure(error, spec.out))
        return FAILED
    return 0


class Teller:
    """Writes messages for the service, a line each; safe to use from threads."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self._title, self._last = "", 0.0

    def tell(self, message: Phase | Published | Failed) -> None:
        """Write a message. The service may be gone: then nobody reads it."""
        with self._lock, suppress(OSError):
            self._out.write(message_line(message) + "\n")
            self._out.flush()

    def phase(self, phase: str) -> None:
        """Say what is done now."""
        self.tell(Phase(phase=phase))

    def progress(self, progress: Progress) -> None:
        """Say how far a counted phase is: at its begin and end, and now and then."""
        now = time.monotonic()
        goes_on = progress.title == self._title and progress.done < progress.total
        if goes_on and now - self._last < _EVERY_S:
            return
        self._title, self._last = progress.title, now
        self.tell(Phase(phase=progress.title, done=progress.done, total=progress.total))


def _fit(spec: FitSpec, teller: Teller) -> None:
    """Fit one classifier."""
    teller.phase("reading the archive")
    order = fit_order(
        FitRequest(
            source=spec.source,
            out=spec.out,
            recipe=spec.recipe,
            model=spec.model,
            stage=spec.stage,
            versions=spec.versions,
            purpose=Purpose(spec.purpose),
            methods=spec.methods,
            settings=spec.settings,
            allow_foreign=spec.allow_foreign,
        )
    )
    _refuse_gpus(order.config, spec)
    config = with_threads(order.config, len(spec.cores))
    order = replace(order, config=config)
    interrupts.run_interruptibly(_fitted(order, spec, teller), _log, lambda: None)
    teller.tell(Published(name="classifier", path=str(order.out)))


async def _fitted(order: FitOrder, spec: FitSpec, teller: Teller) -> None:
    async with fit_place(spec.places, lambda: teller.phase("waiting for another fit")):
        teller.phase("starting the learner")
        async with open_learner(order.config, order.out.parent, {order.model}) as session:
            teller.phase("fitting")
            await fit_from_archive(session, order)


def _watch(spec: FitSpec, teller: Teller) -> None:
    """Follow a run until it ends."""

    def published(candidate: Path) -> None:
        teller.tell(Published(name=candidate.name, path=str(candidate)))

    with open_watcher(
        spec.source,
        spec.out,
        stage=spec.stage,
        settings=spec.settings,
        methods=spec.methods,
        num_versions=spec.last,
        num_cores=len(spec.cores),
        poll_s=2.0,
        say=_log,
        around=lambda fit: PlacedFitter(fit, spec.places, teller),
        published=published,
    ) as watcher:
        teller.phase("watching")
        summary = interrupts.run_interruptibly(watcher.run(), _log, lambda: None)
    if summary.fault is not None:
        raise UserError(f"{summary.fault}, and post this fit again to go on")


@dataclass(frozen=True, slots=True)
class PlacedFitter:
    """A CandidateFitter that waits for a place before each fit."""

    fit: CandidateFitter
    places: Sequence[Path]
    teller: Teller

    async def __call__(self, order: CandidateFit) -> str:
        """Fit with a place held. Raises DeepIntuitError."""
        waiting = f"version {order.version}: waiting for another fit"
        async with fit_place(self.places, lambda: self.teller.phase(waiting)):
            self.teller.phase(f"fitting version {order.version}")
            sources = await self.fit(order)
        self.teller.phase("watching")
        return sources


@asynccontextmanager
async def fit_place(places: Sequence[Path], wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold one of the lock files during the block; ``wait`` is called if all are held. A process
    that dies lets go of its own."""
    held = _take(places)
    if held is None:
        wait()
    while held is None:
        await asyncio.sleep(_LOOK_S)
        held = _take(places)
    try:
        yield
    finally:
        os.close(held)


def _take(places: Sequence[Path]) -> int | None:
    for place in places:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None


def _refuse_gpus(config: RunConfig, spec: FitSpec) -> None:
    if config.learner.num_gpus and not spec.gpus:
        raise ConfigError(
            f"learner.num_gpus is {config.learner.num_gpus:g}, and this service gives fits no GPU; "
            "start it with --fit-gpus, or fit on cores with the setting learner.num_gpus=0"
        )


def _failure(error: Exception, out: Path) -> Failed:
    """What the service is told of an error. What the order or a full disk has caused is final; a
    worker that died, or a bug, may not come again."""
    if (full := full_disk(error, [out.parent])) is not None:
        detail = str(full).replace(REMEDY, "free some, and post this fit again")
        return Failed(error=DiskFull.__name__, detail=detail, is_final=True)
    cause = root_causes(error)[0]
    foreseen = isinstance(cause, DeepIntuitError)
    return Failed(
        error=type(cause).__name__,
        detail=str(cause) if foreseen else f"{type(cause).__name__}: {cause}",
        is_final=isinstance(cause, UserError),
    )


def _die_first() -> None:
    """Where memory runs out, the kernel ends the fit, and not what answers."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _own_stdout() -> TextIO:
    """The pipe to the service; whatever else is printed here goes to the log, where stderr goes."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w")


def _end_with_service() -> None:
    """Wait for the end of stdin, which is the service's, and end."""
    while os.read(0, 4096):
        pass
    interrupts.end_at_once()


def _log(text: str) -> None:
    error_console.print(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
