import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from calibrate.service.reviews.agreement import cohen_kappa, review_stats
from calibrate.service.reviews.review import Review, ReviewAnswer, Waiting

NOBODY = Waiting(waiting=0, leased=0, oldest=None)


def ended(label: str, *labels: str | None, kind="review", outcome: str | None = None) -> Review:
    outcome = outcome or labels[0]
    return Review(
        id="r",
        decision_id="d",
        video_hash="f",
        label=label,
        kind=kind,
        reasons=(),
        priority=0,
        weight=1.0,
        created_at="now",
        state="done",
        outcome=outcome,
        overturned=None if outcome is None else outcome != label,
        answers=tuple(
            ReviewAnswer(reviewer="ada", label=one, note="", answered_at="now") for one in labels
        ),
    )


def test_kappa_is_that_of_scikit_learn_where_either_may_be_first():
    draw = np.random.default_rng(0)
    first = draw.choice(["a", "b", "c"], size=300).tolist()
    second = [one if draw.random() < 0.7 else "a" for one in first]
    pairs = list(zip(first, second, strict=True))
    both = [*pairs, *((other, one) for one, other in pairs)]
    assert cohen_kappa(pairs) == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))


def test_kappa_by_hand():
    pairs = [("a", "a")] * 4 + [("b", "b")] * 4 + [("a", "b"), ("b", "a")]
    assert cohen_kappa(pairs) == pytest.approx((0.8 - 0.5) / 0.5)
    assert cohen_kappa([]) is None
    assert cohen_kappa([("a", "a")]) is None


def test_overturns_are_counted_apart_for_audits_and_reviews():
    stats = review_stats(
        [
            ended("a", "b"),
            ended("a", "a"),
            ended("a", None),
            ended("a", "a", kind="audit"),
            ended("a", "a", "b", "b", outcome="b"),
        ],
        NOBODY,
    )
    reviewed, audited = stats.overturned
    assert (reviewed.answered, reviewed.overturned, reviewed.cannot_tell) == (3, 2, 1)
    assert reviewed.rate == pytest.approx(2 / 3)
    assert (audited.answered, audited.rate, audited.low) == (1, 0.0, 0.0)
    assert (stats.agreement.pairs, stats.agreement.agreed) == (1, 0)


def test_without_reviews_no_rate_is_made_up():
    stats = review_stats([], NOBODY)
    assert [one.rate for one in stats.overturned] == [None, None]
    assert (stats.agreement.share, stats.agreement.kappa) == (None, None)
