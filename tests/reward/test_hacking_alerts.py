import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from reward.hacking_alerts import (
    SIGNALS,
    AlertState,
    AlertUpdate,
    standing,
    steps_before_alert,
    update_alerts,
)

CALM = {
    "response_length/mean": 100.0,
    "guard/length_reward_corr": 0.1,
    "guard/format_only": 0.3,
    "guard/format_only_frac": 0.2,
    "guard/answer_kappa": 0.7,
    "guard/top_answer_frac": 0.3,
    "guard/top_label_frac": 0.2,
    "guard/answer_entropy": 0.9,
    "guard/identical_wrong_frac": 0.2,
    "guard/label_in_prompt": 0.0,
}
BAD = {
    "length_drift": {"response_length/mean": 200.0},
    "format_only": {"guard/format_only": 0.8},
    "one_label": {"guard/answer_entropy": 0.25},
    "identical_traces": {"guard/identical_wrong_frac": 0.9},
    "label_in_prompt": {"guard/label_in_prompt": 0.1},
}


def run(steps: list[dict[str, float]], groups: int = 64) -> list[AlertUpdate]:
    seen, state = [], AlertState()
    for figures in steps:
        seen.append(update_alerts(state, figures, groups))
        state = seen[-1].state
    return seen


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
def test_a_signal_is_told_once_after_steps_in_a_row_and_again_after_it_ended(signal) -> None:
    calm, bad = [CALM] * 5, [CALM | BAD[signal.name]]
    seen = run(calm + bad * 4 + calm + bad * 8 + calm + bad * 5)
    told = [at for at, one in enumerate(seen) if one.begun]
    assert told == [5 + 4 + 5 + 4, 5 + 4 + 5 + 8 + 5 + 4]
    assert all(one.begun[0].startswith(f"{signal.title}: ") for one in seen if one.begun)
    assert [at for at, one in enumerate(seen) if one.ended] == [22]
    flagged = [at for at, one in enumerate(seen) if one.figures[signal.flag]]
    assert flagged == [18, 19, 20, 21, 31]


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
def test_a_signal_without_a_figure_is_absent_and_a_gap_neither_ends_nor_adds(signal) -> None:
    source = "response_length/mean" if signal.name == "length_drift" else signal.figure
    without = {name: value for name, value in CALM.items() if name != source}
    assert signal.flag not in run([without])[0].figures
    seen = run([CALM] * 5 + [CALM | BAD[signal.name]] * 4 + [without] * 3)
    assert not seen[-1].figures[signal.flag]
    assert update_alerts(seen[-1].state, CALM | BAD[signal.name], 64).begun


def test_traces_half_as_long_are_a_drift_too() -> None:
    seen = run([CALM] * 5 + [CALM | {"response_length/mean": 50.0}] * 5)
    assert seen[-1].begun[0] == (
        "Length drift: traces are 0.50 times as long as in the first steps; within a group length "
        "and reward correlate at +0.10"
    )


def test_the_first_steps_are_the_baseline_and_later_ones_do_not_move_it() -> None:
    lengths = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 90.0]
    seen = run([{"response_length/mean": length} for length in lengths])
    ratios = [one.figures["guard/length_ratio"] for one in seen]
    assert ratios == pytest.approx([1, 20 / 15, 1.5, 40 / 25, 50 / 30, 60 / 30, 90 / 30])


def test_small_steps_need_more_of_them() -> None:
    assert [steps_before_alert(groups) for groups in (1, 8, 13, 64, 512)] == [64, 8, 5, 5, 5]


FIGURES = st.fixed_dictionaries(
    {},
    optional={
        name: st.floats(0.01, 300.0) if "/mean" in name else st.floats(0, 1) for name in CALM
    },
).map(lambda given: {**{n: v for n, v in CALM.items() if n.endswith(("frac", "kappa"))}, **given})


@given(st.lists(FIGURES, max_size=30), st.integers(0, 30), st.sampled_from([1, 16, 64]))
def test_a_resumed_run_says_what_an_unbroken_one_says(steps: list, at: int, groups: int) -> None:
    kept = TypeAdapter(AlertState)
    whole = run(steps, groups)
    state = whole[min(at, len(whole)) - 1].state if at and whole else AlertState()
    state = kept.validate_json(kept.dump_json(state))
    for figures, expected in zip(
        steps[min(at, len(whole)) :], whole[min(at, len(whole)) :], strict=True
    ):
        again = update_alerts(state, figures, groups)
        assert again == expected
        state = again.state


@given(FIGURES)
def test_what_stands_is_said_from_the_figures_alone(figures: dict) -> None:
    flags = {signal.flag: 1.0 for signal in SIGNALS}
    assert list(standing(figures)) == []
    said = list(standing({**CALM, "guard/length_ratio": 3.0, **figures, **flags}))
    assert [line.partition(":")[0] for line in said] == [signal.title for signal in SIGNALS]
    assert list(standing(flags)) == [signal.title for signal in SIGNALS]


def test_a_limit_belongs_to_the_signal_and_nan_never_shows() -> None:
    for signal in SIGNALS:
        limit = signal.high if signal.high is not None else signal.low
        assert limit is not None
        assert signal.shows(limit)
        assert not signal.shows(math.nan)
