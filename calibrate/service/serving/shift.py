"""Monitors of shift, one per version: fed in the order in which clips were asked, whatever order
they end in.

    turn = feed.begin() -> answered -> feed.end(turn, evidence) -> a thread: ShiftMonitor.observe
    alarm -> every decision is for review until it is acknowledged

Short traces end first: fed as they end, the monitor would see the shortest first, which is a shift
that does not exist. An answer does not wait for those before it: it gets the alarm as it stands.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from calibrate.classifier import Classifier, load_classifier
from calibrate.decision import Evidence
from calibrate.service.problems import Problem
from calibrate.shift.features import TraceReference
from calibrate.shift.monitor import ShiftMonitor
from calibrate.shift.served import features_of
from wire.errors import DataError
from wire.whole_file import whole_file

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CLASSIFIER_FILE = "classifier.txt"
_SAVE_EVERY = 100  # traces; what a kill loses


class ShiftFeed:
    """Feed of one version's monitor. All of the monitor happens in one thread."""

    def __init__(self, classifier: Classifier, directory: Path, thread: ThreadPoolExecutor) -> None:
        self._directory, self._thread = directory, thread
        self._monitor = _load(classifier, directory)
        self._labels = classifier.description.shown_label_set
        self._calibration = classifier.calibration
        self._next = self._first = 0
        self._ended: dict[int, Evidence | None] = {}
        self.alarm = self._monitor.alarm
        """Words of the alarms that stand."""

    def begin(self) -> int:
        """The turn of a clip that is asked now; it must end."""
        self._next += 1
        return self._next - 1

    def end(self, turn: int, evidence: Evidence | None) -> None:
        """End a turn; None: the clip has no trace."""
        self._ended[turn] = evidence
        while self._first in self._ended:
            due = self._ended.pop(self._first)
            self._first += 1
            if due is not None:
                self._thread.submit(self._observe, due)

    async def state(self) -> dict[str, Any]:
        """State of the test, after all that was fed."""
        return await self._in_thread(self._state)

    async def acknowledge(self) -> dict[str, Any]:
        """End the alarms that stand and begin a new test. Gives the state before. Raises Problem
        409 if there is none."""
        return await self._in_thread(self._acknowledge)

    async def save(self) -> None:
        """Write the monitor's state, after all that was fed."""
        await self._in_thread(self._save)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _observe(self, evidence: Evidence) -> None:
        try:
            features = features_of(evidence, self._labels, self._calibration)
            self.alarm = self._monitor.observe(features)
            if self._monitor.num_served % _SAVE_EVERY == 0:
                self._save()
        except (DataError, OSError):  # nobody waits for it
            _log.exception("the monitor of shift in %s did not take a trace", self._directory)

    def _save(self) -> None:
        self._monitor.save(self._directory)

    def _state(self) -> dict[str, Any]:
        monitor = self._monitor
        return {
            "num_served": monitor.num_served,
            "num_acknowledged": monitor.num_acknowledged,
            "level": monitor.level,
            "alarm": monitor.alarm,
            "features": [
                {
                    "feature": one.feature,
                    "log_e_value": one.log_e_value,
                    "log_limit": one.log_limit if math.isfinite(one.log_limit) else None,
                    "effect": one.effect.explanation if one.effect else None,
                }
                for one in monitor.features()
            ],
        }

    def _acknowledge(self) -> dict[str, Any]:
        before = self._state()
        if self._monitor.alarm is None:
            raise Problem(409, "no-alarm", "no alarm of shift stands; there is none to acknowledge")
        self._monitor.acknowledge()
        self.alarm = None
        self._save()
        return before


class ShiftMonitors:
    """Monitors of all versions that were answered with; their state lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shift")
        self._feeds: dict[int, ShiftFeed | None] = {}
        self._opening = asyncio.Lock()

    async def of(self, version: int, directory: Path) -> ShiftFeed | None:
        """The feed of a version; None: it has no reference to compare with."""
        if version not in self._feeds:
            async with self._opening:
                if version not in self._feeds:
                    loop = asyncio.get_running_loop()
                    self._feeds[version] = await loop.run_in_executor(
                        self._thread, self._open, version, directory
                    )
        return self._feeds[version]

    def _open(self, version: int, directory: Path) -> ShiftFeed | None:
        classifier = load_classifier(directory, check_weights=False)
        if not classifier.has_reference:
            return None
        return ShiftFeed(classifier, self._folder / str(version), self._thread)

    async def close(self) -> None:
        """Save all."""
        for feed in self._feeds.values():
            if feed is not None:
                await feed.save()
        self._thread.shutdown(wait=True)


def _load(classifier: Classifier, directory: Path) -> ShiftMonitor:
    """The monitor where it was left, or a new one. A state that cannot be read is put aside."""
    reference = TraceReference.load(classifier.path)
    monitor, marked = ShiftMonitor(reference), directory / _CLASSIFIER_FILE
    if (directory / "monitor.json").exists():
        try:
            if marked.read_text() == classifier.version:
                monitor = ShiftMonitor.load(directory, reference)
        except (DataError, OSError) as error:
            _log.error("the monitor of shift begins anew: %s", error)
    directory.mkdir(parents=True, exist_ok=True)
    with whole_file(marked) as partial:
        partial.write_text(classifier.version)
    return monitor
