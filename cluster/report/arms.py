"""Figures of the report's stages and control arms, computed from their predictions.

    predictions/NAME.parquet -> evaluate -> ArmFigures     (with reliability bins, coverage curve)
                             -> compare  -> PairedFigures  (stage after stage, arms with the last)

Figures come from the predictions, so a stage counts as soon as it has left some.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from calibrate.compare import Comparison, compare
from calibrate.metrics import NUM_BINS, Evaluation, evaluate, selective_accuracies
from calibrate.predictions import Prediction
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.stage import label_of
from cluster.metrics.inference_cost import InferenceCost
from cluster.run_files import read_result, read_run_chain, read_run_titles, result_figures
from wire.errors import DataError

_COVERAGE_POINTS = 60

Predictions = Mapping[str, Sequence[Prediction]]
"""Arm -> its predictions; stages first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Bin of answers of similar confidence."""

    confidence: float
    """Mean confidence of the bin."""
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """Figures of one stage or control arm; shares in [0, 1]."""

    name: str
    text: str
    """Title of the arm; empty for a user's own name."""
    is_stage: bool
    split: str
    finished: bool
    """False: the arm has predictions, but is still running or was stopped."""
    seconds: float | None
    num_failed: int
    inference: InferenceCost | None
    """Cost of an answer; None where the run did not measure it."""
    evaluation: Evaluation
    reliability: tuple[Bin, ...]
    """Empty where no answer has a confidence."""
    coverage: tuple[tuple[float, float], ...]
    """(share of the clips that is answered, accuracy on those), the surest first."""
    explanations: Mapping[str, Any] | None
    """Figures of the explanations written beside the labels; None: none were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedFigures:
    """Paired test of the second arm against the first, on the same clips."""

    before: str
    after: str
    is_stage_step: bool
    """A stage against the stage before it; else a control arm against the last stage."""
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStage:
    """A stage, or the head of a calibration, as charts show it.

    Example:
        ShownStage(name="coldstart", kind="sft", label="Cold start")
    """

    name: str
    kind: str
    """Kind of the stage, which gives its colour; ``head`` for a head, ``classifier`` for what was
    published."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """Declared stages of a run, and the titles of all that it may measure."""

    stages: tuple[str, ...]
    """Names of the stages in their order."""
    heads: Mapping[str, str]
    """Name of a head or published classifier -> the calibration that fitted it."""
    titles: Mapping[str, str]
    """Name of a stage, head or control arm -> its title, in the order of the tables."""
    shown: tuple[ShownStage, ...]
    """Stages and heads as charts show them."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of the run in ``path``; the default ones if its recipe cannot be read."""
        chain = read_run_chain(path)
        calibrations = [s for s in chain if isinstance(s, CalibrateStage)]
        heads = {name: s.name for s in calibrations for name in s.also_predicted}
        shown = [ShownStage(name=s.name, kind=s.kind, label=s.label) for s in chain]
        for kind, names in (
            ("head", [stage.head_name for stage in calibrations]),
            ("classifier", [stage.classifier_name for stage in calibrations]),
        ):
            shown += [ShownStage(name=name, kind=kind, label=label_of(name)) for name in names]
        titles = read_run_titles(path)
        return cls(stages=chain.names, heads=heads, titles=titles, shown=tuple(shown))


def arm_figures(
    path: Path,
    predictions: Predictions,
    label_names: Sequence[str],
    default_split: str,
    declared: Declared,
) -> list[ArmFigures]:
    """The figures of all arms. Raises DataError if predictions do not fit the labels."""
    arms = []
    for name, answers in predictions.items():
        if not answers:
            continue
        result = read_result(path, declared.heads.get(name, name))
        arms.append(_figures(name, answers, label_names, result, default_split, declared))
    return arms


def paired_figures(predictions: Predictions, declared: Declared) -> list[PairedFigures]:
    """Tests of neighbouring stages, and of each other arm with the last stage; only of arms that
    answered the same clips."""
    tests = []
    for before, after, is_step in _pairs(predictions, declared):
        try:
            comparison = compare(predictions[before], predictions[after])
        except DataError:
            continue  # other clips, as of an arm that is measured on val: nothing to pair
        tests.append(
            PairedFigures(before=before, after=after, is_stage_step=is_step, comparison=comparison)
        )
    return tests


def majority(path: Path, arms: Sequence[ArmFigures]) -> float | None:
    """Accuracy of the most frequent train label on the evaluated clips, as the stages noted it."""
    for arm in arms:
        figures = result_figures(read_result(path, arm.name) or {})
        if arm.is_stage and figures.get("majority_baseline") is not None:
            return float(figures["majority_baseline"])
    return None


def _pairs(predictions: Predictions, declared: Declared) -> Iterator[tuple[str, str, bool]]:
    stages = [name for name in declared.stages if name in predictions]
    yield from ((before, after, True) for before, after in pairwise(stages))
    if stages:
        others = [name for name in _ordered(predictions, declared) if name not in stages]
        yield from ((name, stages[-1], False) for name in others)


def _ordered(predictions: Predictions, declared: Declared) -> list[str]:
    known = [name for name in declared.titles if name in predictions]
    return known + [name for name in predictions if name not in known]


def _figures(
    name: str,
    answers: Sequence[Prediction],
    label_names: Sequence[str],
    result: dict[str, Any] | None,
    default_split: str,
    declared: Declared,
) -> ArmFigures:
    confidence = np.array([p.confidence for p in answers], dtype=np.float64)
    right = np.array([p.predicted == p.label for p in answers])
    figures = result or {}
    return ArmFigures(
        name=name,
        text=declared.titles.get(name, ""),
        is_stage=name in declared.stages,
        split=figures.get("split") or default_split,
        finished=result is not None,
        seconds=None if name in declared.heads else figures.get("seconds"),
        num_failed=figures.get("num_failed", 0),
        inference=None if name in declared.heads else InferenceCost.of_result(figures),
        evaluation=evaluate(answers, label_names),
        reliability=_bins(confidence, right) if confidence.any() else (),
        coverage=_coverage(confidence, right) if confidence.any() else (),
        explanations=figures.get("explanations"),
    )


def _bins(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> tuple[Bin, ...]:
    """The bins of the ECE that have answers; confidences [N], right [N]."""
    places = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return tuple(
        Bin(
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
            count=int(inside.sum()),
        )
        for place in range(NUM_BINS)
        if (inside := places == place).any()
    )


def _coverage(
    confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]
) -> tuple[tuple[float, float], ...]:
    values = selective_accuracies(confidence, right)
    kept = np.unique(
        np.linspace(1, len(values), min(_COVERAGE_POINTS, len(values))).round().astype(np.int64)
    )
    return tuple((float(count / len(values)), float(values[count - 1])) for count in kept)
