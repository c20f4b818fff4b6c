from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from calibrate.service.protocols import NewReview
from calibrate.service.reviews.agreement import agreement, cohen_kappa, overturn_rate
from tests.calibrate.service.deciding import Deciding, caller, deciding


def test_kappa_is_that_of_scikit_learn_where_either_may_be_first():
    draw = np.random.default_rng(0)
    first = draw.choice(["a", "b", "c"], size=300).tolist()
    second = [one if draw.random() < 0.7 else "a" for one in first]
    pairs = list(zip(first, second, strict=True))
    both = [*pairs, *((other, one) for one, other in pairs)]
    assert cohen_kappa(Counter(pairs)) == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))


def test_kappa_by_hand():
    pairs = [("a", "a")] * 4 + [("b", "b")] * 4 + [("a", "b"), ("b", "a")]
    assert cohen_kappa(Counter(pairs)) == pytest.approx((0.8 - 0.5) / 0.5)
    assert cohen_kappa({}) is None
    assert cohen_kappa({("a", "a"): 3}) is None


async def answer(parts: Deciding, number: int, kind: str, *labels: str | None) -> None:
    review = NewReview(
        id=f"rev_{number}",
        decision_id=f"dec_{number}",
        video_hash="f" * 64,
        label="a",
        kind="audit" if kind == "audit" else "review",
        reasons=(),
        weight=1.0,
        created_at="2026-11-30T10:00:00.000Z",
    )
    with parts.database.write() as connection:
        parts.reviews.open(connection, review)
    for place, label in enumerate(labels):
        person = caller(f"person {place}", "review")
        await parts.reviews.lease(person, 1, 60)
        await parts.reviews.complete(review.id, person, label=label)


async def test_overturns_are_counted_apart_for_audits_and_reviews(tmp_path: Path):
    with deciding(tmp_path) as parts:
        for number, labels in enumerate([("b",), ("a",), (None,), ("b",)]):
            await answer(parts, number, "review", *labels)
        await answer(parts, 9, "audit", "a")
        stats = await parts.reviews.stats()
        reviewed, audited = stats.overturned
        assert (reviewed.kind, reviewed.answered, reviewed.overturned) == ("review", 3, 2)
        assert (reviewed.cannot_tell, reviewed.rate) == (1, pytest.approx(2 / 3))
        assert (audited.kind, audited.answered, audited.rate) == ("audit", 1, 0.0)
        assert stats.agreement.pairs == 0
        assert stats.queue.waiting == 0


async def test_pairs_are_the_first_two_answers_of_doubles(tmp_path: Path):
    with deciding(tmp_path, double_share=1.0) as parts:
        await answer(parts, 0, "review", "a", "a")
        await answer(parts, 1, "review", "b", "b")
        await answer(parts, 2, "review", "a", "b", "b")
        await answer(parts, 3, "review", "a", None, "a")
        await answer(parts, 4, "review", "a")
        stats = await parts.reviews.stats()
        assert (stats.agreement.pairs, stats.agreement.agreed) == (4, 2)
        pairs = Counter([("a", "a"), ("b", "b"), ("a", "b"), ("a", None)])
        assert stats.agreement == agreement(pairs)
        assert (stats.queue.waiting, stats.queue.leased) == (1, 0)


def test_without_reviews_no_rate_is_made_up():
    rate = overturn_rate("audit", overturned=0, confirmed=0, cannot_tell=3)
    assert (rate.rate, rate.low, rate.high) == (None, None, None)
    assert (agreement({}).share, agreement({}).kappa) == (None, None)
