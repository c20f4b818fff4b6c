"""Agreement of people with the classifier and with each other, from reviews that have ended.

    reviews -> overturn rate of reviewed and of audited decisions, kappa of double-blind answers

The audit is a random draw of automatic decisions: its overturn rate estimates theirs.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import get_args

from calibrate.metrics import wilson_interval
from calibrate.service.reviews.review import ReviewKind
from wire.config import Config

Pair = tuple[str | None, str | None]
"""Labels of the first two answers of a review; None: it cannot be told."""


class Waiting(Config):
    """Reviews that wait."""

    waiting: int
    leased: int
    oldest: str | None
    """When the oldest of them was opened."""


class OverturnRate(Config):
    """How often people gave another label than the classifier."""

    kind: ReviewKind
    answered: int
    """Reviews that ended with a label."""
    cannot_tell: int
    """Reviews that ended without one."""
    overturned: int
    rate: float | None
    """Null without an answer."""
    low: float | None
    """Lower end of the 95% Wilson interval."""
    high: float | None


class Agreement(Config):
    """How far two people agree who did not see each other's answer."""

    pairs: int
    """Reviews with two answers, "cannot tell" among them."""
    agreed: int
    share: float | None
    kappa: float | None
    """Cohen's; null without pairs, or where all answers are the same."""


class ReviewStats(Config):
    """Figures of the reviews."""

    queue: Waiting
    overturned: tuple[OverturnRate, ...]
    agreement: Agreement


def review_stats(connection: sqlite3.Connection, now: float) -> ReviewStats:
    """Figures of the reviews in a database; counted there, so that they cost little however many
    there are."""
    counts = {
        (row["kind"], row["overturned"]): row["num"]
        for row in connection.execute(
            "SELECT kind, outcome <> label AS overturned, COUNT(*) AS num FROM reviews "
            "WHERE state = 'done' GROUP BY 1, 2"
        )
    }
    pairs: Counter[Pair] = Counter(
        {
            (row["one"], row["other"]): row["num"]
            for row in connection.execute(
                "SELECT first.label AS one, second.label AS other, COUNT(*) AS num "
                "FROM review_answers AS first JOIN review_answers AS second "
                "ON second.review_id = first.review_id AND second.place = 1 "
                "WHERE first.place = 0 GROUP BY 1, 2"
            )
        }
    )
    return ReviewStats(
        queue=_waiting(connection, now),
        overturned=tuple(
            overturn_rate(
                kind,
                overturned=counts.get((kind, 1), 0),
                confirmed=counts.get((kind, 0), 0),
                cannot_tell=counts.get((kind, None), 0),
            )
            for kind in get_args(ReviewKind)
        ),
        agreement=agreement(pairs),
    )


def agreement(pairs: Mapping[Pair, int]) -> Agreement:
    """Agreement in pairs of answers, each with how often it was given."""
    num = sum(pairs.values())
    agreed = sum(count for (one, other), count in pairs.items() if one == other)
    return Agreement(
        pairs=num,
        agreed=agreed,
        share=agreed / num if num else None,
        kappa=cohen_kappa(pairs),
    )


def cohen_kappa(pairs: Mapping[Pair, int]) -> float | None:
    """Agreement beyond chance (Cohen 1960), whose chance is that of two people with the same
    frequencies of labels: which of the two answered first says nothing. None where there is no pair
    or one label alone."""
    num = sum(pairs.values())
    labels: Counter[str | None] = Counter()
    for pair, count in pairs.items():
        for label in pair:
            labels[label] += count
    if len(labels) < 2:
        return None
    chance = sum((count / (2 * num)) ** 2 for count in labels.values())
    agreed = sum(count for (one, other), count in pairs.items() if one == other) / num
    return (agreed - chance) / (1 - chance)


def overturn_rate(
    kind: ReviewKind, *, overturned: int, confirmed: int, cannot_tell: int
) -> OverturnRate:
    """Rate of overturned decisions, with its interval."""
    answered = overturned + confirmed
    low, high = wilson_interval(overturned, answered) if answered else (None, None)
    return OverturnRate(
        kind=kind,
        answered=answered,
        cannot_tell=cannot_tell,
        overturned=overturned,
        rate=overturned / answered if answered else None,
        low=low,
        high=high,
    )


def _waiting(connection: sqlite3.Connection, now: float) -> Waiting:
    row = connection.execute(
        "SELECT COUNT(*) AS num, MIN(created_at) AS oldest FROM reviews WHERE state = 'open'"
    ).fetchone()
    (leased,) = connection.execute(
        "SELECT COUNT(DISTINCT review_id) FROM review_leases WHERE until > ?", (now,)
    ).fetchone()
    return Waiting(waiting=row["num"], leased=leased, oldest=row["oldest"])
