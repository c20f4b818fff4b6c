"""The *head* classifier: multinomial logistic regression over hidden states of video + trace.

    features [N, H] -> standardised -> C by cross validation -> Head -> probabilities [N, L]

Knows nothing of where the features come from. Saved as safetensors + JSON: plain numbers, no
pickle.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

from calibrate.label_errors import OutOfFold
from calibrate.linear.logistic import Problem, Regressions, Solution, blocks
from calibrate.metrics import negative_log_likelihood
from wire.errors import DataError
from wire.whole_file import replace_json, whole_file

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates for the inverse strength of the L2 penalty, in scikit-learn's sense."""
_DEFAULT_C = 1e-2  # where there is too little data to choose: strong, as H is far above N
_NUM_FOLDS = 5
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """softmax(((x - mean) / scale) @ weight.T + bias), float64 throughout.

    Category splitting edits rows of ``weight`` and ``bias``.
    """

    label_names: tuple[str, ...]
    mean: Floats
    """[H]"""
    scale: Floats
    """[H], 1 where a feature never varies."""
    weight: Floats
    """[L, H]"""
    bias: Floats
    """[L]; minus infinity for a label without training data: its probability is exactly 0."""
    c: float
    """The chosen inverse penalty."""

    def probabilities(self, features: NDArray[np.floating]) -> Floats:
        """[N, H] -> [N, L], rows summing to 1. Raises DataError on another H or NaN or infinity."""
        _check_features(features, len(self.mean))
        scores = np.empty((len(features), len(self.bias)))
        for block in blocks(len(features)):  # a copy in float64 would be twice the features
            standard = (features[block] - self.mean) / self.scale
            scores[block] = standard @ self.weight.T + self.bias
        return np.asarray(softmax(scores, axis=1), dtype=np.float64)

    def save(self, directory: Path) -> None:
        """Write head.safetensors, then head.json, each by rename: the JSON marks a whole head."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        with whole_file(directory / "head.safetensors") as partial:
            save_file(tensors, partial)
        about = {"format": _FORMAT, "label_names": self.label_names, "c": self.c}
        replace_json(directory / "head.json", about)

    @classmethod
    def load(cls, directory: Path) -> "Head":
        """The inverse of ``save``, bit for bit. Raises DataError if there is no whole head."""
        try:
            about = json.loads((directory / "head.json").read_text(encoding="utf-8"))
            tensors = load_file(directory / "head.safetensors")
            if about["format"] != _FORMAT:
                raise DataError(
                    f"{directory}: head format {about['format']}, expected {_FORMAT}; fit it anew"
                )
            head = cls(
                label_names=tuple(about["label_names"]),
                c=float(about["c"]),
                **{name: tensors[name] for name in _TENSORS},
            )
        except (OSError, json.JSONDecodeError, SafetensorError, KeyError, TypeError) as error:
            raise DataError(
                f"{directory} holds no head that can be read: {error!r}; fit it anew"
            ) from error
        if head.weight.shape != (len(head.label_names), len(head.mean)):
            raise DataError(
                f"{directory}: weight {head.weight.shape} does not fit "
                f"{len(head.label_names)} labels and {len(head.mean)} features; fit it anew"
            )
        return head


_TENSORS = ("mean", "scale", "weight", "bias")


def fit(
    features: NDArray[np.floating],
    labels: Sequence[str],
    label_names: Sequence[str],
    sample_ids: Sequence[str] | None = None,
) -> Head:
    """Fit a head to ``features`` [N, H] of the calibration set, and to nothing else.

    ``sample_ids`` [N] name the clip of each row. The k traces of one clip then stay in one fold;
    without them each row is taken for a clip of its own, and C comes out too large. Of equal C the
    smallest wins. A label without rows gets probability 0 and a warning. Raises DataError on fewer
    than two labels, unknown labels, or features not finite.
    """
    _check_features(features, None)
    clips = list(sample_ids) if sample_ids is not None else [str(row) for row in range(len(labels))]
    if not len(features) == len(labels) == len(clips):
        raise DataError(
            f"{len(features)} rows of features, {len(labels)} labels, {len(clips)} sample ids; "
            "expected one of each per trace"
        )
    unknown = sorted(set(labels) - set(label_names))
    if unknown:
        raise DataError(f"labels {unknown} are not among {list(label_names)}; mend the manifest")
    missing = [name for name in label_names if name not in labels]
    if len(label_names) - len(missing) < 2:
        raise DataError(f"a head needs clips of two labels; got only {sorted(set(labels))}")
    if missing:
        log.warning("no calibration clips of %s: the head gives them probability 0", missing)
    truth = np.array([list(label_names).index(label) for label in labels], dtype=np.int64)
    mean, scale = _moments(features)
    regressions = Regressions(_standardised(features, mean, scale), truth, len(label_names))
    c = _choose_c(regressions, truth, clips)
    (solution,) = regressions.solve([Problem(np.ones(len(truth), np.bool_), c)])
    return Head(
        label_names=tuple(label_names),
        mean=mean,
        scale=scale,
        weight=solution.weight.astype(np.float64),
        bias=solution.bias.astype(np.float64),
        c=c,
    )


def out_of_fold(
    features: NDArray[np.floating],
    labels: Sequence[str],
    label_names: Sequence[str],
    sample_ids: Sequence[str],
    c: float,
) -> OutOfFold:
    """Probabilities of each row [N, L] by a head that did not see its clip, over the folds that C
    was chosen by; ``c``: the chosen one. Raises DataError if a label has one clip only."""
    _check_features(features, None)
    truth = np.array([list(label_names).index(label) for label in labels], dtype=np.int64)
    held_out = _held_out(truth, sample_ids)
    if not held_out:
        raise DataError("a label has one clip only: no folds; get another clip of it")
    folds = np.zeros(len(truth), np.int64)
    for number, rows in enumerate(held_out):
        folds[rows] = number
    regressions = Regressions(_standardised(features, *_moments(features)), truth, len(label_names))
    problems = [Problem(folds != number, c) for number in range(len(held_out))]
    probabilities = np.zeros((len(truth), len(label_names)))
    for rows, solution in zip(held_out, regressions.solve(problems), strict=True):
        probabilities[rows] = softmax(solution.logits[rows].astype(np.float64), axis=1)
    return OutOfFold(probabilities, folds)


def _held_out(truth: NDArray[np.int64], clips: Sequence[str]) -> list[NDArray[np.int64]]:
    """Rows of each fold of whole clips; none if a label has one clip only."""
    per_label = Counter(label for _, label in set(zip(clips, truth.tolist(), strict=True)))
    num_folds = min(_NUM_FOLDS, *per_label.values())
    if num_folds < 2:
        return []
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=0)
    return [rows for _, rows in folds.split(np.zeros(len(truth)), truth, clips)]


def _choose_c(regressions: Regressions, truth: NDArray[np.int64], clips: Sequence[str]) -> float:
    """The C of ``C_GRID`` with the lowest mean NLL over folds of whole clips."""
    held_out = _held_out(truth, clips)
    if not held_out:
        log.warning("a label has one calibration clip only: no cross validation, C=%g", _DEFAULT_C)
        return _DEFAULT_C
    trained = [np.isin(np.arange(len(truth)), rows, invert=True) for rows in held_out]
    losses = []
    solutions: list[Solution] | None = None
    for c in C_GRID:
        solutions = regressions.solve([Problem(rows, c) for rows in trained], start=solutions)
        losses.append(
            sum(
                negative_log_likelihood(
                    softmax(solution.logits[rows].astype(np.float64), axis=1), truth[rows]
                )
                for solution, rows in zip(solutions, held_out, strict=True)
            )
        )
    return C_GRID[int(np.argmin(losses))]


def _moments(features: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of each feature; 1 for one that never varies."""
    mean = features.mean(axis=0, dtype=np.float64)
    squares = sum(((features[b] - mean) ** 2).sum(axis=0) for b in blocks(len(features)))
    deviation = np.sqrt(squares / len(features))
    return mean, np.where(deviation > 0, deviation, 1.0)


def _standardised(
    features: NDArray[np.floating], mean: Floats, scale: Floats
) -> NDArray[np.float32]:
    rows = np.empty(features.shape, np.float32)
    for block in blocks(len(rows)):
        rows[block] = (features[block] - mean) / scale
    return rows


def _check_features(features: NDArray[np.floating], width: int | None) -> None:
    if features.ndim != 2 or (width is not None and features.shape[1] != width):
        expected = "[N, H]" if width is None else f"[N, {width}], as fitted"
        raise DataError(f"features have shape {list(features.shape)}, expected {expected}")
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise DataError(
            f"{bad} of {len(features)} rows of features are not finite; extract them anew"
        )
