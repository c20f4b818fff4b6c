"""Risk of automatic decisions, watched on the labels that come back from audits.

    audited decisions of one promise, in the order of their answers -> RiskWatch

Audits are a random draw, so that their error rate estimates that of all automatic decisions. The
alarm is a test by betting (Ville 1939; Waudby-Smith & Ramdas 2024): if the error rate is at most
what was promised, the probability that it *ever* rings is at most ``1 - confidence``, however often
one looks. It needs no number of audits fixed before. What cannot be told is left out.
"""

from collections.abc import Sequence

import numpy as np

from calibrate.metrics import wilson_interval
from wire.config import Config

_STAKES = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9])  # of all that may be lost on one answer


class RiskWatch(Config):
    """Errors of automatic decisions beside what was promised."""

    promise: str
    """Whose: ``threshold`` of the classifier, or a policy as ``policy NAME@VERSION``."""
    classifier: int
    max_error: float
    """Promised error rate of automatic decisions."""
    confidence: float
    """1 - this: probability of a false alarm, over all time."""
    audited: int
    """Answered audits."""
    wrong: int
    low: float | None
    """Lower end of the 95% Wilson interval of the error rate; null without an audit."""
    high: float | None
    evidence: float
    """Largest capital of the bets so far, from 1: the alarm rings at 1 / (1 - confidence)."""
    alarm: bool
    """Whether the promise is refuted: fit anew, or make the policy stricter."""


def watch_risk(
    wrong: Sequence[bool], *, promise: str, classifier: int, max_error: float, confidence: float
) -> RiskWatch:
    """Watch one promise. ``wrong``: of each audited decision, in the order of answers."""
    capital = largest_capital(wrong, max_error)
    low, high = wilson_interval(sum(wrong), len(wrong)) if wrong else (None, None)
    return RiskWatch(
        promise=promise,
        classifier=classifier,
        max_error=max_error,
        confidence=confidence,
        audited=len(wrong),
        wrong=sum(wrong),
        low=low,
        high=high,
        evidence=capital,
        alarm=bool(capital >= 1 / (1 - confidence)),
    )


def largest_capital(wrong: Sequence[bool], max_error: float) -> float:
    """Largest capital, from 1, of bets that errors are more frequent than ``max_error``: the mean
    of players, each of whom always stakes the same share of what is left."""
    if not len(wrong):
        return 1.0
    errors = np.asarray(wrong, dtype=np.float64)
    stakes = _STAKES[:, None] / max_error  # a right answer takes stake * max_error of the capital
    logs = np.cumsum(np.log1p(stakes * (errors - max_error)), axis=1)
    best = logs.max(axis=0)
    capitals = best + np.log(np.exp(logs - best).mean(axis=0))
    return float(np.exp(min(max(float(capitals.max()), 0.0), 700.0)))
