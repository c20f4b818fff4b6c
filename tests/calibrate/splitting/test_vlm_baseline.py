import numpy as np
import pytest

from calibrate.splitting.metrics import Evaluation, one_crop_each
from calibrate.splitting.vlm_baseline import nearest_parts, score_baseline
from wire.errors import DataError

TEXTS = np.eye(2)
OWN = one_crop_each(
    np.array([[0.0, 5.0], [0.0, 5.0], [5.0, 0.0], [0.0, 5.0]]), np.array([2, 3, 2, 3])
)
OTHERS = one_crop_each(np.array([[5.0, 0.0], [0.0, 5.0]]), np.array([0, 0]))
EVALUATION = Evaluation(
    (np.eye(2), np.zeros(2)), 1, ("left", "right"), equivalent=OWN, unrelated=OTHERS
)


def test_texts_choose_only_where_the_classifier_has_the_coarse_label():
    """The third clip's embedding is right, but the classifier says another label."""
    clips = np.array([[1.0, 0.1], [0.9, 0.2], [1.0, 0.0], [0.1, 3.0]])
    score = score_baseline(EVALUATION, clips, TEXTS)
    assert [part.right for part in score.parts] == [1, 1]
    assert score.generality == 0.5
    assert score.lost_outside == 0.25
    assert score.confused_inside == 0.25


def test_locality_is_100_by_definition():
    score = score_baseline(EVALUATION, np.ones((4, 2)), TEXTS)
    assert score.locality == 1.0
    assert score.drawn_in == 0.0


def test_length_of_an_embedding_does_not_matter():
    clips = np.array([[0.2, 0.1], [0.0, 1.0]])
    assert nearest_parts(clips, TEXTS).tolist() == [0, 1]
    assert nearest_parts(clips * 100, TEXTS * [[7.0], [0.1]]).tolist() == [0, 1]


def test_embeddings_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"clips \[4, 3\] and of texts \[2, 2\]"):
        nearest_parts(np.ones((4, 3)), TEXTS)
    with pytest.raises(DataError, match="3 embeddings of 4 clips"):
        score_baseline(EVALUATION, np.ones((3, 2)), TEXTS)
