"""Calibration of a classifier: all that it needs beside weights, and what was measured of it.

    Calibrator, prediction sets, thresholds, selection, figures <-> calibration.json

JSON is strict, its numbers exact: what is read is equal to what was written, to the bit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from calibrate.calibrator import Calibrator
from calibrate.conformal import Coverage, Kind, PredictionSets, measure_coverage
from calibrate.figures import Figures
from calibrate.risk import AutomaticErrors, Threshold, measure_automatic
from calibrate.selection import Plateau, Selection
from wire.errors import DataError

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCoverage:
    """Coverage of one kind of sets, measured on one group of clips, beside the promise."""

    split: str
    """The split measured, ``test`` usually."""
    group: str
    """Value of the manifest's group column (new looks, say); ``all`` for all clips."""
    kind: Kind
    promise: float
    measured: Coverage


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAutomatic:
    """Errors of automatic decisions, measured on one group of clips, beside the promise."""

    split: str
    group: str
    promise: float
    """The threshold's ``max_error``."""
    measured: AutomaticErrors


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFigures:
    """Figures of the classifier on one split, before and after calibration."""

    split: str
    before: Figures
    """Of the probabilities as they come: each source's weight 1 (for a pool, 1 / their number)."""
    after: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Calibration of a classifier: fitted state and measured figures."""

    calibrator: Calibrator
    sets: tuple[PredictionSets, ...] = ()
    """The first is the one that decisions report."""
    thresholds: tuple[Threshold, ...] = ()
    """The first is the one that decides between auto and review."""
    selection: Selection | None = None
    """The candidates on val, and why this one was chosen."""
    plateau: Plateau | None = None
    """Whether the verdict had stopped improving; None: no verdict, or no validation."""
    figures: tuple[SplitFigures, ...] = ()
    coverage: tuple[GroupCoverage, ...] = ()
    automatic: tuple[GroupAutomatic, ...] = ()
    """Of the first threshold; empty if it was not attainable."""
    num_samples: dict[str, int] = field(default_factory=dict)
    """Clips of each part: ``learned``, ``held_out``, ``val``, ``test``."""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON: finite numbers, whose every bit its text keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | str | bytes) -> "Calibration":
        """The inverse of ``to_json``, from its values or their text. Raises DataError on anything
        else: another format, a field that is unknown, missing or of another type, labels that do
        not agree."""
        try:
            plain = values if isinstance(values, Mapping) else json.loads(values)
            text = json.dumps(plain, allow_nan=False)  # Python's reader takes NaN and Infinity
            number = plain.get("format")
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"this is no calibration: {error}; fit the classifier anew") from error
        if number != FORMAT:
            raise DataError(
                f"calibration has format {number}, expected {FORMAT}; fit the classifier anew"
            )
        try:
            calibration = TypeAdapter(cls).validate_json(text, strict=True, extra="forbid")
        except ValidationError as error:
            raise DataError(f"this is no calibration: {error}; fit the classifier anew") from error
        names = calibration.calibrator.label_names
        for sets in calibration.sets:
            if sets.label_names != names or len(sets.limits) != len(names):
                raise DataError(
                    f"prediction sets are of labels {list(sets.label_names)}, the calibrator of "
                    f"{list(names)}; fit the classifier anew"
                )
        return calibration


def coverage_by_group(
    sets: PredictionSets,
    probabilities: ArrayLike,
    truth: ArrayLike,
    groups: Sequence[str],
    split: str = "test",
) -> tuple[GroupCoverage, ...]:
    """Coverage over all clips and of each group, beside the promise.

    probabilities [N, L], true label indices [N], the group of each clip [N].
    """
    inside = sets.sets(probabilities)
    labels = np.asarray(truth, dtype=np.int64)
    _refuse_lengths(len(inside), len(labels), len(groups))
    return tuple(
        GroupCoverage(
            split=split,
            group=name,
            kind=sets.kind,
            promise=sets.coverage,
            measured=measure_coverage(inside[rows], labels[rows], sets.label_names),
        )
        for name, rows in _rows_of(groups)
    )


def automatic_by_group(
    threshold: Threshold,
    confidences: ArrayLike,
    right: ArrayLike,
    groups: Sequence[str],
    split: str = "test",
) -> tuple[GroupAutomatic, ...]:
    """Errors of automatic decisions over all clips and of each group, beside the promise; none
    where the threshold was not attainable.

    Of each clip: its confidence, NaN if it is always reviewed, whether the answer is right, group.
    """
    values, hits = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    _refuse_lengths(len(values), len(hits), len(groups))
    if not threshold.attainable:
        return ()
    return tuple(
        GroupAutomatic(
            split=split,
            group=name,
            promise=threshold.max_error,
            measured=measure_automatic(threshold, values[rows], hits[rows]),
        )
        for name, rows in _rows_of(groups)
    )


def _rows_of(groups: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """All clips, then those of each group if there are several."""
    names = np.asarray(groups)
    yield "all", np.ones(len(names), np.bool_)
    if len(kinds := sorted(set(names.tolist()))) > 1:
        yield from ((name, names == name) for name in kinds)


def _refuse_lengths(num_rows: int, num_labels: int, num_groups: int) -> None:
    if not num_rows == num_labels == num_groups:
        raise DataError(
            f"{num_rows} rows of probabilities, {num_labels} labels, {num_groups} groups; "
            "expected one of each per clip"
        )
