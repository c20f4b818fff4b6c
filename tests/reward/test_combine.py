import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.combine import combine
from reward.config import RewardConfig, RewardTerm


def config(*terms: RewardTerm, **fields: object) -> RewardConfig:
    return RewardConfig.model_validate({"terms": terms, **fields})


ACCURACY = RewardTerm(function="accuracy", weight=2.0)
FORMAT = RewardTerm(function="format")


def test_the_sum_is_weighted() -> None:
    assert combine(config(ACCURACY, FORMAT), "normal", {"accuracy": 0.5, "format": 1.0}) == 2.0


def test_the_product_is_weighted() -> None:
    product = config(ACCURACY, FORMAT, combine="product")
    assert combine(product, "normal", {"accuracy": 0.5, "format": 3.0}) == 3.0
    assert combine(product, "normal", {"accuracy": 0.5, "format": 0.0}) == 0.0


@pytest.mark.parametrize(
    ("gate", "total"), [(1.0, 3.0), (0.1, 2.1), (0.0, 0.0), (-1.0, -1.0), (None, 2.0)]
)
def test_a_closed_gate_takes_a_term_out_and_one_that_does_not_apply_is_open(
    gate: float | None, total: float
) -> None:
    gated = config(ACCURACY.model_copy(update={"gated_by": "format"}), FORMAT)
    assert combine(gated, "normal", {"accuracy": 1.0, "format": gate}) == pytest.approx(total)


def test_a_label_has_its_own_weight() -> None:
    term = ACCURACY.model_copy(update={"label_weights": {"rare": 3.0}})
    assert combine(config(term), "rare", {"accuracy": 1.0}) == 6.0
    assert combine(config(term), "normal", {"accuracy": 1.0}) == 2.0


@settings(deadline=None)
@given(st.sampled_from(["sum", "product"]), st.floats(-1e6, 1e6))
def test_a_term_that_does_not_apply_changes_nothing(how: str, value: float) -> None:
    both = combine(config(ACCURACY, FORMAT, combine=how), "x", {"accuracy": value, "format": None})
    assert both == combine(config(ACCURACY, combine=how), "x", {"accuracy": value})


def test_no_term_that_applies_is_no_reward() -> None:
    assert combine(config(ACCURACY, FORMAT), "x", {"accuracy": None, "format": None}) is None


def test_what_overflows_is_not_finite() -> None:
    total = combine(config(ACCURACY, FORMAT), "x", {"accuracy": 1.7e308, "format": 1.7e308})
    assert total is not None
    assert not math.isfinite(total)


@pytest.mark.parametrize("how", ["sum", "product"])
@pytest.mark.parametrize("fields", [{"weight": 0.0}, {"label_weights": {"x": 0.0}}])
def test_a_term_that_is_only_logged_neither_zeroes_a_product_nor_stands_for_one_that_applies(
    how: str, fields: dict[str, object]
) -> None:
    terms = config(ACCURACY, FORMAT.model_copy(update=fields), combine=how)
    assert combine(terms, "x", {"accuracy": 1.0, "format": 1.0}) == 2.0
    assert combine(terms, "x", {"accuracy": None, "format": 1.0}) is None
