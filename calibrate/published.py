"""Published classifier as a run tells of it: done.json["classifier"] -> figures, and lines of text.

For summary, report and comparison. The classifier itself is read by calibrate/classifier.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from calibrate.calibration import Calibration, GroupAutomatic, GroupCoverage, SplitFigures
from wire.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedClassifier:
    """What a calibration's result tells of the classifier that it published.

    Example:
        PublishedClassifier(method="policy+verdict", version="5f0c...", policy_version="0.82",
                            foreign="", not_attained=(), calibration=calibration)
    """

    method: str
    """What it reads, joined by ``+``."""
    version: str
    policy_version: str
    foreign: str
    """Mark of traces that another policy wrote; empty: its own."""
    not_attained: tuple[str, ...]
    """What it could not promise, in words."""
    calibration: Calibration

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self | None:
        """Of a calibration's result; None for one of earlier versions, which published nothing.
        Raises DataError if its figures cannot be read."""
        values = result.get("classifier")
        if values is None:
            return None
        try:
            return cls(
                method=values["method"],
                version=values["version"],
                policy_version=values["policy_version"],
                foreign=values.get("foreign") or "",
                not_attained=tuple(values.get("not_attained") or ()),
                calibration=Calibration.from_json(values["calibration"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the published classifier's figures cannot be read: {error!r}; another version of "
                "this program wrote them"
            ) from error

    @property
    def on_test(self) -> SplitFigures | None:
        """Figures before and after calibration on the clips that the run is measured on; None
        without such clips."""
        fitted_on = ("learned", "val", "held_out")
        measured = [one for one in self.calibration.figures if one.split not in fitted_on]
        return measured[-1] if measured else None

    def lines(self) -> Iterator[str]:
        """What to know of it, a sentence each."""
        calibration = self.calibration
        if calibration.selection is not None:
            yield calibration.selection.explanation
        if measured := self.on_test:
            before, after = measured.before, measured.after
            yield (
                f"ECE on {after.num_samples} {measured.split} clips {before.ece:.3f} before "
                f"calibration, {after.ece:.3f} after; NLL {before.nll:.3f}, {after.nll:.3f}"
            )
        kinds = [one.kind for one in calibration.sets[:1]]
        if rows := [one for one in calibration.coverage if one.kind in kinds]:
            yield _coverage_line(rows)
        thresholds = [one.explanation for one in calibration.thresholds[:1]]
        yield from thresholds
        if calibration.automatic:
            yield _automatic_line(calibration.automatic)
        yield from (line for line in self.not_attained if line not in thresholds)
        if self.foreign:
            yield f"fitted to traces of another policy: {self.foreign}"


def _coverage_line(rows: list[GroupCoverage]) -> str:
    first = rows[0]
    groups = ", ".join(
        f"{one.measured.share:.3f} ({one.measured.low:.3f} to {one.measured.high:.3f}) of "
        f"{one.measured.num_samples} {'clips' if one.group == 'all' else one.group}, "
        f"{one.measured.mean_size:.2f} labels each"
        for one in rows
    )
    return f"sets promised to hold the true label of {100 * first.promise:g}%: {groups}"


def _automatic_line(rows: Sequence[GroupAutomatic]) -> str:
    groups = ", ".join(
        f"{one.measured.num_wrong} wrong of {one.measured.num_automatic} decided, of "
        f"{one.measured.num_samples} {'clips' if one.group == 'all' else one.group}"
        for one in rows
    )
    return (
        f"automatic decisions promised to be wrong in at most {100 * rows[0].promise:g}%: {groups}"
    )
