"""Choice of the classifier that is published, from label logprobs: temperatures, selection, sets,
threshold, figures.

    val       -> temperature of each source, pools -> the best by the recipe's measure
    held out  -> prediction sets, threshold of automatic decisions
    test      -> figures before and after, coverage by group beside its promise

Each part is read for this alone. Without val the logprobs are taken as they are; without held-out
clips no promise can be made: both are said. Plain arithmetic, no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from calibrate.calibration import (
    Calibration,
    GroupCoverage,
    SplitFigures,
    automatic_by_group,
    coverage_by_group,
)
from calibrate.calibrator import Calibrator, Source
from calibrate.config import CalibrateConfig
from calibrate.conformal import Kind, PredictionSets, fit_sets, num_needed
from calibrate.figures import measure
from calibrate.protocols import ValidationCurve
from calibrate.risk import Threshold, choose_start, fit_threshold
from calibrate.selection import Measure, Plateau, Selection, fit_candidates, plateau, select
from wire.types import Sample

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ScoredClips:
    """Clips of one part, with label logprobs of each source."""

    samples: Sequence[Sample]
    label_names: tuple[str, ...]
    logprobs: Mapping[Source, Floats]
    """[N, L]; a row of NaN for a clip without a trace."""
    parsed: NDArray[np.bool_] | None = None
    """[N]: whether its trace can be read; one that cannot is always reviewed. None: all can."""

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """Indices of the true labels."""
        return np.array([self.label_names.index(s.label) for s in self.samples], np.int64)

    @property
    def ids(self) -> list[str]:
        """Sample ids."""
        return [sample.id for sample in self.samples]

    def unread(self, calibrator: Calibrator) -> NDArray[np.bool_]:
        """[N]: clips whose trace cannot be read, or of which a source says nothing: they are always
        reviewed."""
        unread = np.zeros(len(self), np.bool_) if self.parsed is None else ~self.parsed
        for source in calibrator.sources:
            unread = unread | np.isnan(self.logprobs[source]).any(axis=1)
        return unread

    def groups(self, column: str) -> list[str]:
        """Each clip's value of a manifest column, as ``column=value``; all alike without one."""
        return [f"{column}={s.extra.get(column)}" if column else "all" for s in self.samples]


def choose(
    parts: Mapping[str, ScoredClips],
    config: CalibrateConfig,
    num_learned: int,
    curve: ValidationCurve | None = None,
    test_name: str = "test",
) -> Calibration:
    """Choose and calibrate the classifier. ``parts``: ``val``, ``held_out``, ``test``, of which any
    may be empty; ``num_learned``: clips that verdict and head learned from; ``test_name``: the
    split that ``test`` is."""
    val, held_out, test = parts["val"], parts["held_out"], parts["test"]
    selection = _selection(val, config)
    calibrator = (
        selection.candidate().calibrator
        if selection
        else Calibrator(label_names=val.label_names, weights={config.methods[0]: 1.0})
    )
    sets = _prediction_sets(held_out, calibrator, config)
    threshold = _threshold(val, held_out, calibrator, config)
    return Calibration(
        calibrator=calibrator,
        sets=sets,
        thresholds=(threshold,),
        selection=selection,
        plateau=_plateau(curve),
        figures=tuple(
            _figures(name, clips, calibrator)
            for name, clips in (("val", val), ("held_out", held_out), (test_name, test))
            if len(clips)
        ),
        coverage=tuple(_coverage(sets, test, calibrator, config.group_by, test_name)),
        automatic=automatic_by_group(
            threshold, *_confidences(test, calibrator), test.groups(config.group_by), test_name
        )
        if len(test)
        else (),
        num_samples={
            "learned": num_learned,
            **{name: len(clips) for name, clips in parts.items()},
        },
    )


def lacks(calibration: Calibration) -> list[str]:
    """What a calibration could not promise or do, and why, in words."""
    lines = []
    if calibration.selection is None:
        lines.append(
            "no val clips: nothing was compared, and probabilities are as the "
            f"{'+'.join(calibration.calibrator.weights)} gives them, without a temperature; give "
            "the manifest rows with split 'val'"
        )
    lines += [one.explanation for one in calibration.sets[:1] if not one.attainable]
    lines += [one.explanation for one in calibration.thresholds[:1] if not one.attainable]
    if calibration.plateau is not None and calibration.plateau.reached is False:
        lines.append(calibration.plateau.explanation)
    return lines


def _selection(val: ScoredClips, config: CalibrateConfig) -> Selection | None:
    if not len(val):
        return None
    candidates = fit_candidates(val.logprobs, val.truth, val.label_names, val.ids)
    return select(candidates, val.truth, val.ids, by=config.select_by)


def _prediction_sets(
    held_out: ScoredClips, calibrator: Calibrator, config: CalibrateConfig
) -> tuple[PredictionSets, ...]:
    """Of both kinds, the recipe's first."""
    kinds: list[Kind] = sorted(get_args(Kind), key=lambda kind: kind != config.sets)
    if not len(held_out):
        return tuple(
            PredictionSets(
                kind=kind,
                coverage=config.coverage,
                label_names=held_out.label_names,
                num_samples=0,
                num_per_label=(0,) * len(held_out.label_names),
                limits=(None,) * len(held_out.label_names),
                num_needed=num_needed(config.coverage),
            )
            for kind in kinds
        )
    probabilities = calibrator.probabilities(held_out.logprobs)
    return tuple(
        fit_sets(probabilities, held_out.truth, held_out.label_names, config.coverage, kind)
        for kind in kinds
    )


def _threshold(
    val: ScoredClips, held_out: ScoredClips, calibrator: Calibrator, config: CalibrateConfig
) -> Threshold:
    start = None
    if len(val) and len(held_out):
        chosen_on = _confidences(val, calibrator)
        start = choose_start(*chosen_on, config.max_error, config.confidence, len(held_out))
    return fit_threshold(
        *_confidences(held_out, calibrator), config.max_error, config.confidence, start=start
    )


def _confidences(clips: ScoredClips, calibrator: Calibrator) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidence of the answer about each clip, NaN for what is always reviewed, and whether it is
    right."""
    probabilities = calibrator.probabilities(clips.logprobs)
    unread = clips.unread(calibrator)
    confidences = np.where(unread, np.nan, probabilities.max(axis=1, initial=0.0))
    return confidences, probabilities.argmax(axis=1) == clips.truth


def _figures(name: str, clips: ScoredClips, calibrator: Calibrator) -> SplitFigures:
    before = calibrator.without_temperature().probabilities(clips.logprobs)
    after = calibrator.probabilities(clips.logprobs)
    return SplitFigures(
        split=name, before=measure(before, clips.truth), after=measure(after, clips.truth)
    )


def _coverage(
    sets: Sequence[PredictionSets],
    test: ScoredClips,
    calibrator: Calibrator,
    column: str,
    name: str,
) -> list[GroupCoverage]:
    if not len(test):
        return []
    probabilities = calibrator.probabilities(test.logprobs)
    groups = test.groups(column)
    return [
        one
        for kind in sets
        for one in coverage_by_group(kind, probabilities, test.truth, groups, name)
    ]


def _plateau(curve: ValidationCurve | None) -> Plateau | None:
    if curve is None or curve.measure not in get_args(Measure):
        return None
    return plateau(curve.steps, curve.values, curve.measure)  # type: ignore[arg-type]
