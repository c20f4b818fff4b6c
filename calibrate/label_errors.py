"""Label errors: clips whose label is probably wrong, ranked for a person to look at.

    out-of-fold probabilities of the clips learned from -> rank_label_errors -> LabelErrors

Confident learning (Northcutt, Jiang & Chuang 2021) by cleanlab, the extra
``deepintuit[cleanlab]``: each clip's self-confidence, the probability of its own label, ranks it;
those beyond the noise rate that the probabilities imply are marked. A classifier agrees with the
labels that it learned from, so only probabilities by folds are taken: of each clip by a fit that
did not see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wire.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Probabilities of rows by fits that did not see their clips."""

    probabilities: Floats
    """[N, L]"""
    folds: Ints
    """[N]: the fold that each row was held out in; its probabilities are by a fit to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelError:
    """A clip whose label may be wrong."""

    sample_id: str
    label: str
    """As it is in the manifest."""
    suggested: str
    """The most probable label."""
    self_confidence: float
    """Out-of-fold probability of its own label, mean over its traces."""
    suggested_probability: float
    marked: bool
    """Whether confident learning takes the label for wrong; False: it is ranked only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelErrors:
    """Clips learned from, ranked by how probably their label is wrong."""

    num_clips: int
    num_marked: int
    ranked: tuple[LabelError, ...]
    """The most doubtful first: marked ones, then others that the classifier would label otherwise;
    at most as many as asked for."""


def rank_label_errors(
    out_of_fold: OutOfFold,
    labels: Sequence[str],
    label_names: Sequence[str],
    sample_ids: Sequence[str],
    *,
    most: int = 100,
) -> LabelErrors:
    """Ranked label errors of clips, from out-of-fold probabilities of their traces.

    ``labels`` and ``sample_ids`` [N] are of each row; the rows of a clip are averaged. Raises
    DataError if cleanlab is not installed, if folds are missing or a clip is in several of them:
    such probabilities are of clips that the fit had seen.
    """
    rows = np.asarray(out_of_fold.probabilities, dtype=np.float64)
    if rows.shape != (len(labels), len(label_names)) or len(sample_ids) != len(labels):
        raise DataError(
            f"probabilities of shape {list(rows.shape)}, {len(labels)} labels, {len(sample_ids)} "
            f"sample ids; expected one of each per trace, over {list(label_names)}"
        )
    _refuse_in_sample(out_of_fold.folds, sample_ids)
    ids, first, clip = np.unique(np.asarray(sample_ids), return_index=True, return_inverse=True)
    truth = np.array([list(label_names).index(labels[row]) for row in first], dtype=np.int64)
    if any(labels[row] != label_names[truth[clip[row]]] for row in range(len(labels))):
        raise DataError("the traces of one clip have different labels; mend the manifest")
    means = np.zeros((len(ids), len(label_names)))
    np.add.at(means, clip, rows)
    means /= means.sum(axis=1, keepdims=True)
    own = means[np.arange(len(ids)), truth]
    marked = _marked(truth, means)
    best = means.argmax(axis=1)
    doubtful = np.flatnonzero(marked | (best != truth))
    order = sorted(doubtful.tolist(), key=lambda row: (not marked[row], own[row], ids[row]))
    return LabelErrors(
        num_clips=len(ids),
        num_marked=int(marked.sum()),
        ranked=tuple(
            LabelError(
                sample_id=str(ids[row]),
                label=label_names[truth[row]],
                suggested=label_names[best[row]],
                self_confidence=float(own[row]),
                suggested_probability=float(means[row].max()),
                marked=bool(marked[row]),
            )
            for row in order[:most]
        ),
    )


def _refuse_in_sample(folds: ArrayLike, sample_ids: Sequence[str]) -> None:
    held_out = np.asarray(folds)
    if held_out.shape != (len(sample_ids),) or not np.issubdtype(held_out.dtype, np.integer):
        raise DataError(
            f"folds have shape {list(held_out.shape)}, expected the fold that each of "
            f"{len(sample_ids)} traces was held out in"
        )
    if len(set(held_out.tolist())) < 2 or held_out.min() < 0:
        raise DataError(
            "label errors need probabilities of clips that the fit had not seen, from two folds or "
            f"more; got folds {sorted(set(held_out.tolist()))}"
        )
    fold_of: dict[str, int] = {}
    for name, fold in zip(sample_ids, held_out.tolist(), strict=True):
        if fold_of.setdefault(name, fold) != fold:
            raise DataError(
                f"clip {name!r} has traces in folds {fold_of[name]} and {fold}: the fit had seen "
                "it; keep the traces of a clip in one fold"
            )


def _marked(truth: Ints, probabilities: Floats) -> NDArray[np.bool_]:
    """Clips that confident learning takes for wrong; over the labels that occur, as it wants."""
    find_label_issues = _cleanlab()
    present = np.unique(truth)
    if len(present) < 2:
        return np.zeros(len(truth), np.bool_)
    some = probabilities[:, present] + 1e-12  # a clip may give all to labels without clips
    some /= some.sum(axis=1, keepdims=True)
    labels = np.searchsorted(present, truth)
    return np.asarray(find_label_issues(labels, some, n_jobs=1), dtype=np.bool_)


def _cleanlab() -> Any:
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise DataError(
            "label errors are ranked by cleanlab, which is not installed; "
            "pip install 'deepintuit[cleanlab]'"
        ) from error
    return find_label_issues
