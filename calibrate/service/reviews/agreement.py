"""Agreement of people with the classifier and with each other, from reviews that have ended.

    reviews -> overturn rate of reviewed and of audited decisions, kappa of double-blind answers

The audit is a random draw of automatic decisions: its overturn rate estimates theirs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from calibrate.metrics import wilson_interval
from calibrate.service.reviews.review import Review, ReviewKind, Waiting
from wire.config import Config


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


def review_stats(done: Sequence[Review], waiting: Waiting) -> ReviewStats:
    """Figures of reviews that have ended, and of those that wait."""
    kinds: tuple[ReviewKind, ...] = ("review", "audit")
    pairs = [(one.answers[0].label, one.answers[1].label) for one in done if len(one.answers) >= 2]
    return ReviewStats(
        queue=waiting,
        overturned=tuple(_rate(kind, [one for one in done if one.kind == kind]) for kind in kinds),
        agreement=Agreement(
            pairs=len(pairs),
            agreed=sum(one == other for one, other in pairs),
            share=sum(one == other for one, other in pairs) / len(pairs) if pairs else None,
            kappa=cohen_kappa(pairs),
        ),
    )


def cohen_kappa(pairs: Iterable[tuple[str | None, str | None]]) -> float | None:
    """Agreement beyond chance (Cohen 1960), whose chance is that of two people with the same
    frequencies of labels: which of the two answered first says nothing. None where there is no pair
    or one label alone."""
    given = list(pairs)
    if not given:
        return None
    counts = Counter(label for pair in given for label in pair)
    chance = sum((count / (2 * len(given))) ** 2 for count in counts.values())
    agreed = sum(one == other for one, other in given) / len(given)
    return None if len(counts) == 1 else (agreed - chance) / (1 - chance)


def _rate(kind: ReviewKind, reviews: Sequence[Review]) -> OverturnRate:
    answered = [one for one in reviews if one.overturned is not None]
    overturned = sum(one.overturned is True for one in answered)
    low, high = wilson_interval(overturned, len(answered)) if answered else (None, None)
    return OverturnRate(
        kind=kind,
        answered=len(answered),
        cannot_tell=len(reviews) - len(answered),
        overturned=overturned,
        rate=overturned / len(answered) if answered else None,
        low=low,
        high=high,
    )
