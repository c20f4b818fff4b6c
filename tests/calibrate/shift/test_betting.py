import numpy as np
import pytest

from calibrate.shift.betting import Bettor


def capital(p_values: np.ndarray) -> float:
    bettor = Bettor()
    for p in p_values:
        bettor.bet(float(p))
    return bettor.log_capital


def test_a_bet_is_fair() -> None:
    """The mean of the next capital over uniform p is the present one, whatever came before."""
    rng = np.random.default_rng(0)
    bettor = Bettor()
    for p in rng.beta(0.5, 1, size=50):
        bettor.bet(float(p))
    state, now = bettor.state(), bettor.log_capital
    after = []
    for p in (np.arange(1024) + 0.5) / 1024:  # a whole number of points in each interval
        copy = Bettor.restored(state)
        copy.bet(float(p))
        after.append(np.exp(copy.log_capital))
    assert np.mean(after) == pytest.approx(np.exp(now), rel=1e-9)


def test_capital_grows_where_p_values_are_not_uniform() -> None:
    rng = np.random.default_rng(1)
    assert capital(rng.random(300)) < 2
    assert capital(rng.beta(0.3, 1, size=100)) > 10
    assert capital(rng.beta(1, 0.3, size=100)) > 10
    assert capital(0.4 + rng.random(100) / 10) > 10  # neither small nor large


def test_a_change_after_a_long_quiet_time_is_noticed() -> None:
    rng = np.random.default_rng(2)
    quiet = rng.random(5000)
    assert capital(quiet) < 2
    assert capital(np.concatenate([quiet, rng.random(150) / 4])) > 10


def test_what_is_rare_is_bet_on_at_the_ends() -> None:
    rng = np.random.default_rng(4)
    rare = np.where(rng.random(300) < 0.1, 0.98 + rng.random(300) * 0.02, rng.random(300))
    assert capital(rare) > 5  # a tenth, where two in a hundred were


def test_the_ends_are_p_values_too() -> None:
    assert np.isfinite(capital(np.array([0.0, 1.0] * 50)))


def test_a_restored_bettor_goes_on_as_the_first() -> None:
    rng = np.random.default_rng(3)
    one = Bettor()
    for p in rng.random(20):
        one.bet(float(p))
    other = Bettor.restored(one.state())
    for p in rng.random(20):
        one.bet(float(p))
        other.bet(float(p))
    assert one.log_capital == other.log_capital
    with pytest.raises(ValueError, match="weights of shape"):
        Bettor.restored({"weights": [[1.0]], "log_capital": [0.0]})
