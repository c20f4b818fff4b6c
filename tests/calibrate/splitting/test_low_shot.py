from dataclasses import replace

import numpy as np
import pytest

from calibrate.splitting.config import LowShotConfig
from calibrate.splitting.edit import SplitHead, linear_logits
from calibrate.splitting.low_shot import coarse_start, fine_tune, random_start
from tests.calibrate.splitting.compositions import compositions
from wire.errors import DataError

WORLD = compositions(noise=0.2, num_modifiers=3)
PARTS = WORLD.grouping.groups["group0"]
START = WORLD.split("group0", np.zeros((3, 96)))
SHOTS = WORLD.clips(PARTS, 4, 0.5, 3)
TRUTH = np.repeat(np.arange(3), 4)


def trained(start: SplitHead = START, seed: int = 0, **settings: object) -> SplitHead:
    return fine_tune(start, SHOTS, TRUTH, seed=seed, config=LowShotConfig(**settings)).head  # type: ignore[arg-type]


def test_only_the_new_rows_are_trained():
    copies = WORLD.weight.copy(), WORLD.bias.copy()
    head = trained()
    assert head.weight is WORLD.weight
    assert head.bias is WORLD.bias
    assert WORLD.weight.tobytes() == copies[0].tobytes()
    assert WORLD.bias.tobytes() == copies[1].tobytes()
    assert (np.abs(head.vectors).max(axis=1) > 0).all()
    before = linear_logits(SHOTS, *copies)
    assert head.logits(SHOTS)[:, : len(WORLD.names)].tobytes() == before.tobytes()


def test_the_loss_is_over_old_and_new_logits_together():
    """The first loss is the log of all shares, where one over the new logits would be log k."""
    config = LowShotConfig(max_epochs=1, dropout=0, batch_size=100)
    (first,) = fine_tune(START, SHOTS, TRUTH, seed=0, config=config).losses
    logits = START.logits(SHOTS)
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(TRUTH)), len(WORLD.names) + TRUTH]
    expected = (np.log(np.exp(logits).sum(axis=1)) - own).mean()
    assert first == pytest.approx(expected, rel=1e-5)
    assert first > np.log(3) + 0.05


def test_rows_learn_to_stand_apart_from_labels_that_were_there():
    """One update against old logits that already win moves the rows further than one against
    old logits that are far away."""
    far = replace(START, bias=START.bias - 1e3, bias_shifts=np.full(3, 1e3))
    settings = {"max_epochs": 1, "dropout": 0.0, "weight_decay": 0.0, "batch_size": 100}
    against, alone = trained(**settings), trained(far, **settings)
    assert not np.allclose(against.vectors, alone.vectors, atol=1e-4)


def test_training_ends_early_and_keeps_the_best_rows():
    config = LowShotConfig(max_epochs=400, learning_rate=0.05)
    tuned = fine_tune(START, SHOTS, TRUTH, seed=0, config=config)
    assert len(tuned.losses) < 400
    assert tuned.best_epoch == len(tuned.losses) - 5
    assert tuned.losses[-1] < tuned.losses[0]


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    assert trained(seed=1).vectors.tobytes() == trained(seed=1).vectors.tobytes()
    assert not np.array_equal(trained(seed=1).vectors, trained(seed=2).vectors)


def test_the_coarse_start_forgets_an_edit_and_the_random_one_has_the_papers_spread():
    edited = WORLD.split("group0", np.ones((3, 96)))
    assert np.array_equal(coarse_start(edited).rows, np.repeat(START.weight[[0]], 3, axis=0))
    assert edited.coarse == 0
    wide = compositions(width=2000, num_modifiers=3)
    rows = random_start(wide.split("group0", np.zeros((3, 2000))), seed=4).rows
    assert np.abs(rows).max() <= 0.04 + 1e-9
    # a normal distribution that is cut at two deviations has .88 of its deviation
    assert rows.std() == pytest.approx(0.88 * 0.02, rel=0.03)
    np.testing.assert_allclose(random_start(edited, seed=4).biases, 0, atol=1e-12)
    assert np.array_equal(random_start(edited, 4).rows, random_start(START, 4).rows)


def test_a_few_clips_help_and_locality_stays():
    evaluation = WORLD.evaluation("group0", 20, 0.5, 1)
    before, after = evaluation.score(START), evaluation.score(trained(max_epochs=200))
    assert before.generality < 0.5 < 0.9 < after.generality
    assert after.locality is not None
    assert after.locality > 0.95


def test_training_the_whole_head_changes_old_rows_and_costs_locality():
    many = WORLD.clips(PARTS, 200, 0.5, 3)
    settings = {"learning_rate": 0.02, "max_epochs": 10, "min_gain": 0.0}
    truth = np.repeat(np.arange(3), 200)
    scores = {}
    for trains in ("new_rows", "whole_head"):
        config = LowShotConfig(trains=trains, **settings)  # type: ignore[arg-type]
        head = fine_tune(START, many, truth, seed=0, config=config).head
        scores[trains] = WORLD.evaluation("group0", 20, 0.5, 1).score(head)
        assert np.array_equal(head.weight, WORLD.weight) == (trains == "new_rows")
    assert scores["whole_head"].locality < scores["new_rows"].locality  # type: ignore[operator]


@pytest.mark.parametrize(
    ("features", "truth", "reason"),
    [
        (SHOTS, TRUTH[:-1], "12, 96.* and 11 labels"),
        (SHOTS[:, :-1], TRUTH, r"\[12, 95\]"),
        (SHOTS * np.nan, TRUTH, "not all finite"),
        (SHOTS, TRUTH + 1, r"parts \[1, 2, 3\]; expected .* from 0 to 2"),
        (SHOTS[:0], TRUTH[:0], "at least one clip"),
    ],
)
def test_shots_that_do_not_fit_are_refused(features: np.ndarray, truth: np.ndarray, reason: str):
    with pytest.raises(DataError, match=reason):
        fine_tune(START, features, truth, seed=0)
