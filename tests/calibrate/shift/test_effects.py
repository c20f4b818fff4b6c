import pytest
from scipy.stats import mannwhitneyu

from calibrate.shift.effects import effect_of
from calibrate.shift.features import TraceColumns


def test_a_size_is_the_mann_whitney_share(draw, label_names) -> None:
    one, other = draw(0, 150), draw(1, 80, length=110)
    before, after = (TraceColumns.of(some, label_names) for some in (one, other))
    effect = effect_of("num_tokens", before, after, label_names)
    expected = mannwhitneyu(after.num_tokens, before.num_tokens).statistic / (150 * 80)
    assert effect.size == pytest.approx(expected)
    assert "traces are longer: median" in effect.explanation
    back = effect_of("num_tokens", after, before, label_names)
    assert back.size == pytest.approx(1 - expected)
    assert "shorter" in back.explanation


def test_shares_worked_by_hand(draw, label_names) -> None:
    before = TraceColumns.of(draw(2, 2000), label_names)
    after = TraceColumns.of(draw(3, 2000, unparsed=0.5, mix=(0.1, 0.3, 0.6)), label_names)
    parsed = effect_of("parsed", before, after, label_names)
    assert (parsed.archived, parsed.served) == (
        pytest.approx(0.98, abs=0.01),
        pytest.approx(0.5, abs=0.03),
    )
    answer = effect_of("answer", before, after, label_names)
    assert answer.size == pytest.approx(0.4, abs=0.04)
    assert "is answered by" in answer.explanation
