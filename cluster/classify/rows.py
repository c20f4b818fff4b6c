"""Rows of a classification: what is said of one clip, and of all of them at the end.

Decision or Failure -> Row -> JSON (docs/classify.md) | a line of the table
Rows -> Summary -> its lines
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from calibrate.client.results import Reason as ServiceReason
from calibrate.decision import Action, Reason
from video.address import View
from wire.types import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Versions of what made a decision."""

    policy: str
    """Policy version, attempt.step of its run."""
    classifier: str
    """Hash of the published classifier."""
    calibrator: str
    """Hash of its calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled:
    """The decision about a view of the clip, beside that about the clip itself."""

    view: View
    label: str | None
    """None: the view could not be answered."""
    label_changed: bool
    total_variation: float | None
    """Half the sum of |differences| between the probabilities: 0 equal, 1 disjoint."""
    probabilities: dict[str, float]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Row of one clip: the decision, or the failure in its place.

    Example:
        Row(id="a.mp4", video="/clips/a.mp4", label="undo", decision="auto", ...)
    """

    id: str
    video: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] = ()
    decision: Action | Literal["pass"] = "review"
    """``pass``: a service's policy lets the clip pass, without a person."""
    reasons: tuple[Reason | ServiceReason, ...] = ()
    votes: dict[str, int] | None = None
    """Answers of the sampled traces, where the classifier votes."""
    truth: str | None = None
    control: Controlled | None = None
    failure: Failure | None = None
    trace: str | None = None
    frames: tuple[int, ...] = ()
    """Numbers in the video of the frames that the model saw."""
    versions: Versions
    seconds: float = 0.0
    """From when the clip was taken up; clips that were answered together share them."""
    decision_id: str | None = None
    """Of a service, which explains it under this id."""

    def as_json(self, *, with_trace: bool = True) -> dict[str, Any]:
        """Plain values; fields that do not apply are left out."""
        values = asdict(self)
        values["seconds"] = round(self.seconds, 3)
        values["reasons"] = [asdict(reason) for reason in self.reasons]
        if not with_trace:
            del values["trace"]
        for name in ("votes", "truth", "control", "failure", "decision_id"):
            if values[name] is None:
                del values[name]
        for holder in (values, values.get("control") or {}):
            if (failure := holder.get("failure")) is not None:
                holder["failure"] = {n: failure[n] for n in ("kind", "culprit", "reason")}
        return values


class Summary:
    """Counts of rows as they pass; no row is kept."""

    def __init__(self) -> None:
        self.num_clips = self.num_failed = self.num_auto = 0
        self.num_labelled = self.num_right = self.num_auto_right = self.num_auto_labelled = 0
        self.labels = Counter[str]()
        self.failures = Counter[str]()
        self.num_controlled = self.num_changed = 0
        self.view: View | None = None
        self._variation = 0.0
        self._start = self._end = time.monotonic()

    def begin(self) -> None:
        """Start the clock: the engines are up."""
        self._start = self._end = time.monotonic()

    def add(self, row: Row) -> None:
        """Count a row."""
        self._end = time.monotonic()
        self.num_clips += 1
        if row.failure is not None or row.label is None:
            self.num_failed += 1
            self.failures[row.failure.kind if row.failure else "unknown"] += 1
        else:
            self.labels[row.label] += 1
            self.num_auto += row.decision != "review"
        self._add_truth(row)
        self._add_control(row)

    def _add_truth(self, row: Row) -> None:
        if row.truth is None:
            return
        right, auto = row.label == row.truth, row.decision != "review"
        self.num_labelled += 1
        self.num_right += right
        self.num_auto_labelled += auto
        self.num_auto_right += auto and right

    def _add_control(self, row: Row) -> None:
        control = row.control
        if control is not None and control.total_variation is not None:
            self.view = control.view
            self.num_controlled += 1
            self.num_changed += control.label_changed
            self._variation += control.total_variation

    @property
    def mean_variation(self) -> float:
        """Mean total variation between a clip's probabilities and those of its view."""
        return self._variation / max(1, self.num_controlled)

    def lines(self) -> Iterator[str]:
        """The summary in words; none before the first clip."""
        if not self.num_clips:
            return
        seconds = self._end - self._start
        answered = self.num_clips - self.num_failed
        rate = f" ({self.num_clips / seconds:.1f}/s)" if seconds > 0 else ""
        labels = ", ".join(f"{name} {count}" for name, count in sorted(self.labels.items()))
        yield (
            f"{self.num_clips} clips in {seconds:.1f} s{rate}: {self.num_auto} decided, "
            f"{answered - self.num_auto} for review, {self.num_failed} failed"
        )
        if labels:
            yield f"labels: {labels}"
        if self.failures:
            yield "failures: " + ", ".join(f"{k} {n}" for k, n in sorted(self.failures.items()))
        if self.num_labelled:
            yield self._accuracy()
        if self.view is not None:
            yield self._control(self.view)

    def _accuracy(self) -> str:
        text = (
            f"accuracy: {self.num_right / self.num_labelled:.3f} "
            f"({self.num_right} of {self.num_labelled} clips with a label; a failure is wrong)"
        )
        if self.num_auto_labelled:
            share = self.num_auto_right / self.num_auto_labelled
            text += f"; of those decided {share:.3f} ({self.num_auto_labelled})"
        return text

    def _control(self, view: View) -> str:
        return (
            f"control, {_SHOWN[view]}: the label changed in {self.num_changed} of "
            f"{self.num_controlled} clips, probabilities by {self.mean_variation:.3f} (total "
            f"variation, mean). {meaning_of(view)}"
        )


def meaning_of(view: View) -> str:
    """What it means if a decision is the same for a view of the clip."""
    return _MEANINGS[view]


_SHOWN = {
    View.BLANK: "grey frames",
    View.SHUFFLED: "frames in another order",
    View.REVERSED: "frames backwards",
}
_MEANINGS = {
    View.BLANK: "Where nothing changes, the decision was not read from the pixels: the prompt, the "
    "clip's length or the label's frequency decided it",
    View.SHUFFLED: "Where nothing changes, the order of the frames does not matter: single frames "
    "decided it, or nothing in the video did",
    View.REVERSED: "Where nothing changes, the direction of time does not matter to the decision",
}
