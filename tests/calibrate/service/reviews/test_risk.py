import numpy as np
import pytest

from calibrate.service.reviews.risk import largest_capital, watch_risk


def test_capital_by_hand():
    """One wrong answer against a promise of 10%: a stake of s becomes 1 + s (1 - 0.1) / 0.1."""
    stakes = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
    assert largest_capital([True], 0.1) == pytest.approx((1 + 9 * stakes).mean())
    assert largest_capital([False], 0.1) == 1.0  # where it began
    assert largest_capital([], 0.1) == 1.0


@pytest.mark.parametrize("max_error", [0.02, 0.1, 0.3])
def test_a_kept_promise_rarely_rings_in_all_time(max_error: float):
    draw = np.random.default_rng(0)
    rang = sum(largest_capital(draw.random(1500) < max_error, max_error) >= 10 for _ in range(400))
    assert rang / 400 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)


def test_a_broken_promise_rings_after_some_audits():
    draw = np.random.default_rng(1)
    needed = []
    for _ in range(50):
        wrong = (draw.random(600) < 0.25).tolist()
        needed.append(next(n for n in range(1, 601) if largest_capital(wrong[:n], 0.1) >= 10))
    assert np.median(needed) < 80


def test_a_watch_tells_what_it_saw():
    quiet = watch_risk([], promise="threshold", classifier=2, max_error=0.1, confidence=0.9)
    assert (quiet.audited, quiet.low, quiet.alarm) == (0, None, False)
    loud = watch_risk(
        [True] * 9 + [False], promise="policy p@1", classifier=2, max_error=0.1, confidence=0.9
    )
    assert (loud.audited, loud.wrong, loud.alarm) == (10, 9, True)
    assert loud.low is not None
    assert loud.low > 0.5
    endless = watch_risk(
        [True] * 5000, promise="p", classifier=1, max_error=0.01, confidence=0.9999
    )
    assert np.isfinite(endless.evidence)
