import pytest

from calibrate.service.config import RateLimit
from calibrate.service.http.rates import Rates
from calibrate.service.problems import Problem


def test_a_token_has_its_burst_and_then_its_rate_and_others_have_theirs():
    now = 0.0
    rates = Rates(RateLimit(per_second=0.5, burst=2), now=lambda: now)
    rates.take("a")
    rates.take("a")
    with pytest.raises(Problem) as refusal:
        rates.take("a")
    assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (429, "2")
    rates.take("b")
    now = 2.0
    rates.take("a")
    with pytest.raises(Problem):
        rates.take("a")
