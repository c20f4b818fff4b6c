import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from calibrate.head import C_GRID, Head, fit
from wire.errors import DataError

NAMES = ("a", "b", "c")


def blobs(
    names: tuple[str, ...], num: int = 90, width: int = 8, spread: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float32], list[str]]:
    """One cloud of points per label, the last feature constant."""
    rng = np.random.default_rng(seed)
    labels = [names[i % len(names)] for i in range(num)]
    centres = {name: rng.normal(size=width) * 3 for name in sorted(names)}
    rows = np.stack([centres[label] + rng.normal(size=width) * spread for label in labels])
    rows[:, -1] = 7.0
    return rows.astype(np.float32), labels


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b")])
def test_outputs_are_scikit_learns(names: tuple[str, ...]) -> None:
    features, labels = blobs(names, spread=4.0)
    head = fit(features, labels, names)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    model = LogisticRegression(C=head.c, max_iter=2000, tol=1e-8).fit(scaled, labels)
    np.testing.assert_allclose(head.probabilities(features), model.predict_proba(scaled), atol=1e-4)


def hidden_states(
    names: tuple[str, ...], num: int, width: int, spread: float, seed: int
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Features that correlate, of falling variance and far from zero; two traces of each clip."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, len(names), num // 2), 2)
    rank = width // 2
    basis = rng.normal(size=(rank, width)) * (np.arange(1, rank + 1) ** -0.7)[:, None]
    clip = np.repeat(rng.normal(size=(num // 2, rank)), 2, axis=0) * spread
    hidden = rng.normal(size=(len(names), rank))[truth] + clip
    rows = hidden @ basis + 0.1 * rng.normal(size=(num, width)) + 30 * rng.normal(size=width)
    clips = [f"clip-{number // 2}" for number in range(num)]
    return rows.astype(np.float32), [names[label] for label in truth], clips


def by_scikit_learn(
    features: NDArray[np.float32], labels: list[str], clips: list[str]
) -> tuple[float, NDArray[np.float64]]:
    """C and probabilities, the folds and C one after another, in float64."""
    rows, truth = features.astype(np.float64), np.array(labels)

    def fitted(train: NDArray[np.int64], c: float) -> Any:
        model = LogisticRegression(C=c, max_iter=5000, tol=1e-7)
        return make_pipeline(StandardScaler(), model).fit(rows[train], truth[train])

    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    losses = [
        sum(
            log_loss(truth[held], fitted(train, c).predict_proba(rows[held]))
            for train, held in folds.split(rows, truth, clips)
        )
        for c in C_GRID
    ]
    c = C_GRID[int(np.argmin(losses))]
    return c, fitted(np.arange(len(rows)), c).predict_proba(rows)


@pytest.mark.parametrize(
    ("names", "num", "width", "spread"),
    [
        (("a", "b"), 120, 20, 4.0),
        (("a", "b", "c"), 160, 24, 1.0),
        (NAMES, 90, 200, 2.0),  # more features than rows
        (("a", "b", "c", "d", "e"), 120, 16, 3.0),
    ],
)
def test_c_and_probabilities_are_those_of_scikit_learn_fold_by_fold(
    names: tuple[str, ...], num: int, width: int, spread: float
) -> None:
    for seed in range(2):
        features, labels, clips = hidden_states(names, num, width, spread, seed)
        c, probabilities = by_scikit_learn(features, labels, clips)
        head = fit(features, labels, names, clips)
        assert head.c == c
        np.testing.assert_allclose(head.probabilities(features), probabilities, atol=1e-3)


def test_clear_clouds_are_told_apart() -> None:
    features, labels = blobs(NAMES)
    probabilities = fit(features, labels, NAMES).probabilities(features)
    assert [NAMES[i] for i in probabilities.argmax(axis=1)] == labels
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)


def test_scale_and_offset_of_a_feature_do_not_matter() -> None:
    features, labels = blobs(NAMES, spread=4.0)
    wide = features.astype(np.float64) * 8.0 - 64.0
    one, other = fit(features, labels, NAMES), fit(wide, labels, NAMES)
    assert one.c == other.c
    np.testing.assert_allclose(one.probabilities(features), other.probabilities(wide), atol=1e-4)


def test_a_saved_head_answers_bit_for_bit_alike(tmp_path: Path) -> None:
    features, labels = blobs(NAMES, spread=4.0)
    head = fit(features, labels, (*NAMES, "never"))
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head")
    assert (loaded.label_names, loaded.c) == (head.label_names, head.c)
    assert loaded.probabilities(features).tobytes() == head.probabilities(features).tobytes()
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == [
        "head.json",
        "head.safetensors",
    ]


def test_a_label_without_clips_has_probability_0_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    features, labels = blobs(("a", "c"))
    with caplog.at_level(logging.WARNING):
        head = fit(features, labels, NAMES)
    assert "'b'" in caplog.text
    probabilities = head.probabilities(features)
    assert (probabilities[:, 1] == 0.0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_noise_never_gets_a_weak_penalty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(80, 40)).astype(np.float32)
    labels = [NAMES[i % 2] for i in range(80)]
    assert fit(features, labels, ("a", "b")).c < 0.1


def test_traces_of_one_clip_share_a_fold() -> None:
    # Each clip's traces are near copies and its label is noise: only leaky folds can predict it.
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(40, 30))
    features = np.repeat(clips, 4, axis=0) + rng.normal(size=(160, 30)) * 0.01
    labels = [NAMES[i % 2] for i in range(40) for _ in range(4)]
    sample_ids = [f"clip-{i}" for i in range(40) for _ in range(4)]
    assert fit(features, labels, ("a", "b"), sample_ids).c < 0.1
    assert fit(features, labels, ("a", "b")).c > 0.1


def test_one_clip_of_a_label_means_no_cross_validation(caplog: pytest.LogCaptureFixture) -> None:
    features, labels = blobs(("a", "b"), num=20)
    with caplog.at_level(logging.WARNING):
        fit(
            features,
            labels,
            ("a", "b"),
            sample_ids=["x" if n == "a" else str(i) for i, n in enumerate(labels)],
        )
    assert "no cross validation" in caplog.text


def test_wrong_input_is_refused() -> None:
    features, labels = blobs(NAMES)
    head = fit(features, labels, NAMES)
    broken = features.copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="1 of 90 rows"):
        fit(broken, labels, NAMES)
    with pytest.raises(DataError, match="two labels"):
        fit(features, ["a"] * 90, NAMES)
    with pytest.raises(DataError, match=r"\['c'\] are not among"):
        fit(features, labels, ("a", "b"))
    with pytest.raises(DataError, match="one of each per trace"):
        fit(features[:5], labels, NAMES)
    with pytest.raises(DataError, match=r"expected \[N, 8\]"):
        head.probabilities(features[:, :5])


def test_a_head_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    features, labels = blobs(NAMES)
    fit(features, labels, NAMES).save(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"cut short")
    with pytest.raises(DataError, match="no head that can be read"):
        Head.load(tmp_path)
    with pytest.raises(DataError, match="no head that can be read"):
        Head.load(tmp_path / "missing")
