"""Serving: clips in, evidence out, by the champion or a version that is asked for.

    clip -> admission (bounded, 429) -> the version's line (callers in turn) -> its engines
         -> Evidence, and that about a view -> monitor of shift -> Answered
    promote -> the new one is loaded -> registry (one transaction) -> requests go to it

An answer comes from one version whole: the version is settled when a clip is handed to the engines,
and a restart in between is of the same one. Decides nothing: ``decisions/`` does, from Answered.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from calibrate.decision import Evidence
from calibrate.service.config import ServiceConfig
from calibrate.service.metrics import Metrics
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClassifierBackend, ClipToClassify
from calibrate.service.serving.champion import CHAMPION, Champion
from calibrate.service.serving.line import Admission, Retired
from calibrate.service.serving.loaded import LoadedClassifiers
from calibrate.service.serving.restarts import RestartPolicy
from calibrate.service.serving.running import RunningClassifier, unavailable
from calibrate.service.serving.shift import ShiftFeed, ShiftMonitors
from calibrate.service.serving.together import all_of
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.service.state.registry import Promotion, Registry
from wire.types import Failure

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A clip's evidence, and whose it is."""

    classifier: RegisteredClassifier
    """The version that gave the evidence, and the control's."""
    evidence: Evidence
    control: Evidence | Failure | None = None
    """About the view that was asked for beside the clip."""
    alarm: str | None = None
    """Words of the alarms of shift that stand; then the decision is for review."""
    queue_s: float = 0.0
    """From when it was accepted until it was handed to the engines."""
    engine_s: float = 0.0


class _Place(NamedTuple):
    """Place with a version's engines."""

    registered: RegisteredClassifier
    running: RunningClassifier


class Serving:
    """Serving of registered classifiers. Make it inside a running event loop."""

    def __init__(
        self,
        registry: Registry,
        backend: ClassifierBackend,
        config: ServiceConfig,
        *,
        restarts: RestartPolicy = RestartPolicy(),  # noqa: B008  frozen
    ) -> None:
        self._registry, self._backend, self._config = registry, backend, config
        self._restarts = restarts
        self.admission = Admission(config.max_queue)
        self._loaded = LoadedClassifiers(self._make, config.max_loaded)
        self._shift = ShiftMonitors(config.state / "monitors")
        self._champion = Champion(registry, self._loaded)
        self._draining = False
        self._num_accepted = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self.num_answered = 0

    # --- life

    async def start(self) -> None:
        """Begin to load the champion, if there is one; clips that come meanwhile wait for it."""
        await self._champion.begin()

    @property
    def is_ready(self) -> bool:
        """Whether a clip would be answered now."""
        return self.not_ready_because is None

    @property
    def not_ready_because(self) -> str | None:
        """Why no clip would be answered now; None: one would."""
        if self._draining:
            return "draining: the service ends"
        champion = self._champion.current
        if champion is None:
            return "there is no champion: register a classifier and promote it"
        running = self._loaded.get(champion.version)
        if running is None:
            return "the champion is being changed"
        if running.state != "ready":
            return f"classifier {running.version} is {running.state}"  # why: log and status
        return None

    async def drain(self) -> None:
        """Accept no more clips, and wait until those that were accepted are answered."""
        self._draining = True
        await self._all_answered.wait()

    async def close(self) -> None:
        """End all engines, and save the monitors of shift."""
        self._draining = True
        await self._loaded.close()
        await self._shift.close()
        self._champion.close()

    # --- answers

    async def classify(
        self,
        clip: ClipToClassify,
        *,
        classifier: str = CHAMPION,
        view: str | None = None,
        caller: str = "",
        background: bool = False,
        watched: bool = True,
    ) -> Answered:
        """Evidence about a clip. ``classifier``: an alias or a number; ``view``: shuffled, blank or
        reversed frames, for a control beside it; ``caller``: callers take turns; ``background``:
        others come first; not ``watched``: the monitor of shift does not see the trace, as it is no
        served one (a replay).

        Raises Problem: 422 for a clip that cannot be answered, 429 if too many wait, 503 if the
        engines cannot answer in time, 404 and 409 for a version that is not there or not loaded.
        """
        self._refuse_if_draining()
        start = time.monotonic()
        with self.admission.waiting(background=background) as waiting:
            self._accept(1)
            try:
                async with asyncio.timeout(self._config.request_timeout_s):
                    async with self._place(classifier, caller, background) as place:
                        waiting.over()
                        answered = await self._answer(place, clip, view, start, watched)
            except TimeoutError as error:
                limit = self._config.request_timeout_s
                raise unavailable(
                    f"no answer within {limit:g} s (request_timeout_s); it waited "
                    f"{time.monotonic() - start:.0f} s",
                    self.admission.rate.seconds_for(self.admission.num_waiting),
                ) from error
            finally:
                self._accept(-1)
        self.num_answered += 1
        return answered

    def refuse_if_full(self, *, background: bool = False) -> None:
        """Raise Problem 429 or 503 if a clip would be refused now: before its bytes are taken."""
        self._refuse_if_draining()
        self.admission.refuse_if_full(background=background)

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise Problem(
                503,
                "draining",
                "the service ends, and takes no more clips; ask again in a while",
                headers={"Retry-After": "10"},
            )

    @asynccontextmanager
    async def _place(self, classifier: str, caller: str, background: bool) -> AsyncIterator[_Place]:
        """A place with the engines of a version, which is settled now."""
        while True:
            registered, running = await self._champion.running(classifier)
            with suppress(Retired):
                await running.line.enter(caller, background=background)
                break
        try:
            yield _Place(registered, running)
        finally:
            running.line.leave()

    async def _answer(
        self, place: _Place, clip: ClipToClassify, view: str | None, accepted: float, watched: bool
    ) -> Answered:
        registered, running = place
        feed = await self._shift.of(registered.version, registered.path)
        start = time.monotonic()
        questions = [_observed(running, clip, feed if watched else None)]
        if view is not None:
            questions.append(running.ask(clip, view))
        evidence, *controls = await all_of(questions)
        if isinstance(evidence, Failure):
            raise Problem(
                422,
                "clip-failed",
                f"the clip cannot be answered: {evidence.reason}",
                extra={"failure": {"kind": str(evidence.kind), "reason": evidence.reason}},
            )
        self.admission.rate.note()
        return Answered(
            classifier=registered,
            evidence=evidence,
            control=controls[0] if controls else None,
            alarm=feed.alarm if feed is not None else None,
            queue_s=start - accepted,
            engine_s=time.monotonic() - start,
        )

    # --- versions

    async def promote(
        self, version: int, *, by: str, reason: str = "", expected_champion: int | None = None
    ) -> Promotion:
        """Make a version the champion: it is loaded first, then the registry is changed. No clip
        fails: those that have been handed to the old one are answered by it.

        Raises Problem: 404, 409 if another than ``expected_champion`` is champion or the version
        does not start; then all stays as it was."""
        return await self._champion.promote(
            version, by=by, reason=reason, expected_champion=expected_champion
        )

    async def roll_back(
        self, *, by: str, reason: str = "", expected_champion: int | None = None
    ) -> Promotion:
        """Make the previous champion the champion again, as :meth:`promote` does."""
        return await self._champion.roll_back(
            by=by, reason=reason, expected_champion=expected_champion
        )

    def status(self) -> dict[str, Any]:
        """Status for people and metrics."""
        champion = self._champion.current
        return {
            "ready": self.is_ready,
            "reason": self.not_ready_because,
            "champion": champion.version if champion else None,
            "draining": self._draining,
            "waiting": self.admission.num_waiting,
            "max_queue": self.admission.limit,
            "refused": self.admission.num_refused,
            "answered": self.num_answered,
            "answers_per_s": round(self.admission.rate.per_second, 2),
            "loaded": [
                {
                    "version": one.version,
                    "state": one.state,
                    "in_flight": one.line.num_inside,
                    "waiting": one.line.num_waiting,
                    "restarts": one.num_restarts,
                    "fault": one.fault or None,
                }
                for one in self._loaded
            ],
        }

    def add_metrics(self, metrics: Metrics) -> None:
        """Add gauges of the queue and of the engines."""
        admission, loaded = self.admission, self._loaded
        for name, text, read in (
            ("queue_waiting", "Clips that wait.", lambda: admission.num_waiting),
            (
                "queue_refused",
                "Clips refused because too many waited.",
                lambda: admission.num_refused,
            ),
            ("clips_answered", "Clips answered.", lambda: self.num_answered),
            (
                "clips_in_flight",
                "Clips with the engines.",
                lambda: sum(o.line.num_inside for o in loaded),
            ),
            (
                "classifiers_loaded",
                "Classifiers whose engines are kept.",
                lambda: sum(1 for _ in loaded),
            ),
            (
                "engine_restarts",
                "Restarts of engines that ended.",
                lambda: sum(o.num_restarts for o in loaded),
            ),
            ("ready", "1 if a clip would be answered now.", lambda: float(self.is_ready)),
        ):
            metrics.watch(name, text, read)

    # --- shift

    async def shift_of(self, classifier: str) -> tuple[int, ShiftFeed]:
        """Version of a number or alias, and its monitor of shift. Raises Problem 404."""
        registered = await self._champion.registered(classifier)
        feed = await self._shift.of(registered.version, registered.path)
        if feed is None:
            raise Problem(
                404,
                "no-shift-monitor",
                f"classifier {registered.version} was published without reference.json of archived "
                "traces, so that shift is not watched; fit it anew",
            )
        return registered.version, feed

    # --- inside

    def _make(self, version: int, directory: Path) -> RunningClassifier:
        config = self._config
        return RunningClassifier(
            version,
            directory,
            self._backend,
            places=config.max_in_flight,
            policy=self._restarts,
            silent_s=config.request_timeout_s / 2,
        )

    def _accept(self, change: int) -> None:
        self._num_accepted += change
        if self._num_accepted:
            self._all_answered.clear()
        else:
            self._all_answered.set()


async def _observed(
    running: RunningClassifier, clip: ClipToClassify, feed: ShiftFeed | None
) -> Evidence | Failure:
    """Evidence about a clip; the monitor takes it in the order in which clips were asked."""
    if feed is None:
        return await running.ask(clip)
    turn, evidence = feed.begin(), None
    try:
        evidence = await running.ask(clip)
    finally:
        feed.end(turn, evidence if isinstance(evidence, Evidence) else None)
    return evidence
