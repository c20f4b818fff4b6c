"""A running classifier: engines that are started again when they end, and the clips they had asked
again.

    begin -> opening, pause, opening ... -> open -> died -> closed, opening ...
    ask   -> waits for open -> Evidence; died meanwhile: asked again after the restart, the last
             time alone

A clip that kills an engine takes others down with it. Asked alone, it takes down no other that was
in flight with it before.
"""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from calibrate.decision import Evidence
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClassifierBackend, ClipToClassify, OpenClassifier
from calibrate.service.serving.deadly import DeadlyClips
from calibrate.service.serving.line import Line
from calibrate.service.serving.restarts import RestartPolicy, Restarts
from wire.errors import DeepIntuitError, GenerationError, WorkerDied
from wire.types import Failure

_log = logging.getLogger(__name__)
_AGAIN = 2

State = Literal["starting", "ready", "restarting", "down", "closed"]


def unavailable(detail: str, seconds: float) -> Problem:
    """Problem of engines that cannot answer now."""
    retry = {"Retry-After": str(max(1, round(seconds)))}
    return Problem(503, "engine-unavailable", detail, headers=retry)


class RunningClassifier:
    """A registered classifier whose engines run, or will again."""

    def __init__(
        self,
        version: int,
        directory: Path,
        backend: ClassifierBackend,
        *,
        places: int,
        policy: RestartPolicy,
        silent_s: float,
    ) -> None:
        """``places``: clips answered at a time; ``silent_s``: without any answer for so long, a
        request that waits so long takes the engines for hung."""
        self.version, self._directory, self._backend = version, directory, backend
        self.line = Line(places)
        self.state: State = "starting"
        self.fault = ""
        """Why the engines last ended or did not start."""
        self.used_at = time.monotonic()
        self.num_restarts = 0
        self._policy, self._restarts = policy, Restarts(policy)
        self._silent_s, self._heard_at = silent_s, time.monotonic()
        self._alone, self._deadly = asyncio.Lock(), DeadlyClips()
        self._opened: asyncio.Future[OpenClassifier] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None
        self._down_until = 0.0

    async def open(self) -> None:
        """Start the engines, once. Raises ConfigError, DataError, GenerationError,
        DeadlineExceeded, WorkerDied."""
        self._is_open(await self._backend.open(self._directory))

    def begin(self) -> None:
        """Start the engines, again and again if need be, while requests wait."""
        self._keeper = asyncio.create_task(self._keep_opening(None), name="open-classifier")

    async def ask(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        """Evidence about a clip, or the failure in its place. Raises Problem 503; 422 for a clip
        that engines have ended with."""
        self.used_at = time.monotonic()
        if seconds := self._deadly.seconds_left(clip.path):
            raise Problem(
                422,
                "clip-ends-engines",
                f"engines ended {1 + _AGAIN} times while they answered this clip; it is not asked "
                f"again for {seconds:.0f} s. Send others; the log of the classifier says why",
            )
        for _ in range(_AGAIN):
            try:
                return await self._once(clip, view)
            except (GenerationError, WorkerDied):
                continue
        async with self._alone:
            try:
                return await self._once(clip, view)
            except (GenerationError, WorkerDied) as error:
                self._deadly.add(clip.path)
                raise unavailable(
                    f"the engines ended {1 + _AGAIN} times while they answered this clip, the last "
                    f"time when it was asked alone ({error}); if others are answered, it is the "
                    "clip",
                    self._policy.first_pause_s,
                ) from error

    async def close(self) -> None:
        """End the engines; those that still wait get Problem 503."""
        self.state = "closed"
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if not self._opened.done():
            self._fail(unavailable("the classifier was closed", 1.0))
        elif self._opened.exception() is None:
            await self._opened.result().close()

    async def _once(self, clip: ClipToClassify, view: str | None) -> Evidence | Failure:
        opened = await self._open()
        asked = time.monotonic()
        try:
            evidence = await opened.evidence(clip, view)
        except (GenerationError, WorkerDied) as error:
            self._lost(opened, error)
            raise
        except asyncio.CancelledError:
            now = time.monotonic()
            if now - max(asked, self._heard_at) >= self._silent_s:
                self._lost(opened, WorkerDied(f"no answer for {now - self._heard_at:.0f} s"))
            raise
        self._heard_at = time.monotonic()
        return evidence

    async def _open(self) -> OpenClassifier:
        if self.state == "closed":
            raise unavailable("the classifier was closed", 1.0)
        if self.state == "down":
            raise unavailable(f"the classifier is down: {self.fault}", self._seconds_down())
        return await asyncio.shield(self._opened)

    def _seconds_down(self) -> float:
        return self._down_until - time.monotonic()

    def _is_open(self, opened: OpenClassifier) -> None:
        self.state, self._heard_at = "ready", time.monotonic()
        self._opened.set_result(opened)

    def _lost(self, opened: OpenClassifier, error: Exception) -> None:
        """The processes of ``opened`` have ended: start others, unless that goes on already."""
        if self.state != "ready" or self._opened.result() is not opened:
            return
        self.state, self.fault = "restarting", str(error)
        _log.warning("the engines of classifier %d ended: %s", self.version, error)
        self._opened = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_opening(opened), name="reopen-classifier")

    async def _keep_opening(self, dead: OpenClassifier | None) -> None:
        if dead is not None:
            await dead.close()
        while True:
            pause_s = self._restarts.pause_s()
            if pause_s is None:
                await self._cool_down()
                continue
            await asyncio.sleep(pause_s)
            try:
                opened = await self._backend.open(self._directory)
            except (DeepIntuitError, OSError) as error:
                self.fault = str(error)
                _log.warning("classifier %d did not start: %s", self.version, error)
            else:
                self.num_restarts += dead is not None
                self._is_open(opened)
                return

    async def _cool_down(self) -> None:
        self.state = "down"
        self._down_until = time.monotonic() + self._policy.cool_down_s
        self._fail(unavailable(f"the classifier is down: {self.fault}", self._policy.cool_down_s))
        await asyncio.sleep(self._policy.cool_down_s)
        self.state = "restarting"

    def _fail(self, problem: Problem) -> None:
        """Refuse those that wait for the engines, and make room for the next ones."""
        waiting, self._opened = self._opened, asyncio.get_running_loop().create_future()
        waiting.set_exception(problem)
        waiting.exception()  # it was seen, also where nobody waits
