"""Observer of shift for a classifier in use: feeds each served trace to the monitor, whose state
outlives the command.

    traces, in the order in which clips were asked -> ShiftMonitor -> alarm -> decisions for review
    DIRECTORY/monitor.json, monitor.safetensors, classifier.txt, .lock

The order matters: short traces end first, and a monitor fed as traces end would see the shortest of
each batch first, which is a shift that does not exist.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from calibrate.calibration import Calibration
from calibrate.classifier import Classifier
from calibrate.decision import Evidence
from calibrate.shift.features import TraceReference
from calibrate.shift.monitor import ShiftMonitor
from calibrate.shift.served import features_of
from wire.errors import ConfigError
from wire.labels import LabelSet
from wire.types import Sample
from wire.whole_file import whole_file

_CLASSIFIER_FILE = "classifier.txt"
_SAVE_EVERY = 100  # traces; what a kill loses


def default_place(classifier: Path) -> Path:
    """Directory of a classifier's monitor, beside it."""
    return classifier.with_name(f"{classifier.name}.monitor")


class ShiftObserver:
    """Observer of the traces of one classifier."""

    def __init__(
        self,
        monitor: ShiftMonitor,
        directory: Path,
        labels: LabelSet,
        calibration: Calibration,
    ) -> None:
        self.monitor = monitor
        self._directory, self._labels, self._calibration = directory, labels, calibration

    def observe(self, sample: Sample, evidence: Evidence) -> str | None:
        """Take note of a trace. Words of the alarms that stand; then decisions are for review."""
        alarm = self.monitor.observe(features_of(evidence, self._labels, self._calibration))
        if self.monitor.num_served % _SAVE_EVERY == 0:
            self.save()
        return alarm

    def save(self) -> None:
        """Write the monitor's state."""
        self.monitor.save(self._directory)

    def lines(self) -> Iterator[str]:
        """State of the monitor in words, for the end of a command."""
        served = f"{self.monitor.num_served} served traces"
        if self.monitor.alarm is None:
            yield f"shift: no alarm in {served} (state in {self._directory})"
            return
        yield (
            f"SHIFT: served traces are not drawn like those that the classifier was calibrated on: "
            f"{self.monitor.alarm}"
        )
        yield (
            "all decisions are for review until the alarm is acknowledged: look at the clips, or "
            "fit anew, then give --acknowledge-shift"
        )


@contextmanager
def watch_for_shift(
    classifier: Classifier,
    directory: Path,
    *,
    acknowledge: bool,
    say: Callable[[str], None],
) -> Iterator[ShiftObserver]:
    """Observer of a classifier whose state lies in ``directory``; it is saved after the block.

    ``acknowledge``: end the alarms that stand, before the first trace. Raises ConfigError if
    another process keeps that state or it cannot be written, DataError if it is damaged.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("a")
    except OSError as error:
        raise ConfigError(
            f"cannot keep the state of the shift monitor in {directory}: {error.strerror}; give "
            "--monitor DIR, or --no-monitor"
        ) from error
    with lock:
        _lock(lock, directory)
        monitor = _load(classifier, directory, say)
        if acknowledge:
            say(f"acknowledged: {monitor.alarm or 'there was no alarm of shift'}")
            if monitor.alarm is not None:
                monitor.acknowledge()
        labels = classifier.description.shown_label_set
        observer = ShiftObserver(monitor, directory, labels, classifier.calibration)
        with whole_file(directory / _CLASSIFIER_FILE) as partial:
            partial.write_text(classifier.version)
        observer.save()
        try:
            yield observer
        finally:
            observer.save()


def _load(classifier: Classifier, directory: Path, say: Callable[[str], None]) -> ShiftMonitor:
    """The monitor where it was left, or a new one: for the first traces, and for another
    classifier than it was of."""
    reference = TraceReference.load(classifier.path)
    if not (directory / "monitor.json").exists():
        return ShiftMonitor(reference)
    file = directory / _CLASSIFIER_FILE
    if not file.exists() or file.read_text() != classifier.version:
        say(f"shift: {directory} was of another classifier; its monitor begins anew")
        return ShiftMonitor(reference)
    return ShiftMonitor.load(directory, reference)


def _lock(lock: IO[str], directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process keeps the shift monitor in {directory}; give --monitor DIR for one "
            "of its own, or --no-monitor"
        ) from error
    except OSError:
        return  # a file system without locks
