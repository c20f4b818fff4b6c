"""Calibration of a classifier: all that it needs beside weights, and what was measured of it.

    Calibrator, prediction sets, thresholds, selection, figures <-> calibration.json

JSON is strict, its numbers exact: what is read is equal to what was written, to the bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from calibrate.calibrator import Calibrator
from calibrate.conformal import Coverage, Kind, PredictionSets, measure_coverage
from calibrate.figures import Figures
from calibrate.risk import Threshold
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
    labels, names = np.asarray(truth, dtype=np.int64), np.asarray(groups)
    if not len(inside) == len(labels) == len(names):
        raise DataError(
            f"{len(inside)} rows of probabilities, {len(labels)} labels, {len(names)} groups; "
            "expected one of each per clip"
        )
    every = np.ones(len(labels), np.bool_)
    parts: list[tuple[str, NDArray[np.bool_]]] = [("all", every)]
    if len(kinds := sorted(set(names.tolist()))) > 1:
        parts += [(name, names == name) for name in kinds]
    return tuple(
        GroupCoverage(
            split=split,
            group=name,
            kind=sets.kind,
            promise=sets.coverage,
            measured=measure_coverage(inside[rows], labels[rows], sets.label_names),
        )
        for name, rows in parts
    )
