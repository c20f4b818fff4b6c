"""Alarms of the monitor: none that are false beyond the level, and soon where there is a shift."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from calibrate.shift.features import TraceReference
from calibrate.shift.monitor import FEATURES, ShiftMonitor
from wire.errors import DataError

SHIFTS = {
    "mean_logprob": {"logprob": -0.5},  # another policy: its tokens are less probable
    "confidence": {"sure": 3.0},
    "parsed": {"unparsed": 0.5},
    "num_tokens": {"length": 115},
    "answer": {"mix": (0.15, 0.25, 0.6)},
}


def monitor_of(draw, names, seed: int = 0, num: int = 300, **how) -> ShiftMonitor:
    return ShiftMonitor(TraceReference.of(draw(seed, num), names), seed=seed, **how)


@pytest.mark.parametrize("quiet", [0, 1000])
@pytest.mark.parametrize("feature", FEATURES)
def test_a_shift_alarms_within_300_traces_by_its_feature(
    draw, label_names, feature: str, quiet: int
) -> None:
    for seed in range(3):
        monitor = monitor_of(draw, label_names, seed)
        assert monitor.observe_all(draw(seed + 100, quiet)) is None
        monitor.observe_all(draw(seed + 200, 300, **SHIFTS[feature]))
        assert feature in monitor.alarms
        assert monitor.alarms[feature].num_served <= quiet + 300
        assert monitor.alarm is not None


def test_the_p_values_of_each_feature_are_uniform(draw, label_names, monkeypatch) -> None:
    """A small reference, ties, unparsed traces: what the level rests on."""
    p_values: dict[str, list[float]] = {name: [] for name in FEATURES}
    inner = ShiftMonitor._p_value

    def kept(self, feature, category, value):
        p_values[feature].append(inner(self, feature, category, value))
        return p_values[feature][-1]

    monkeypatch.setattr(ShiftMonitor, "_p_value", kept)
    for seed in range(30):
        monitor_of(draw, label_names, seed, 20).observe_all(draw(seed + 50, 60, unparsed=0.02))
    for name in FEATURES:
        assert kstest(p_values[name], "uniform").pvalue > 1e-3, name
        pairs = np.corrcoef(p_values[name][:-1], p_values[name][1:])
        assert abs(pairs[0, 1]) < 0.1


def test_false_alarms_are_no_more_than_the_level(draw, label_names) -> None:
    alarms = 0
    for seed in range(40):
        monitor = monitor_of(draw, label_names, seed, 100, level=0.2)
        alarms += monitor.observe_all(draw(seed + 1000, 400)) is not None
    assert alarms <= 15  # of 40 at 0.2: more in one of 100 such tests, were the level just kept


@pytest.mark.slow
def test_false_alarms_over_10000_served_traces_are_no_more_than_the_level(
    draw, label_names
) -> None:
    alarms = 0
    for seed in range(8):
        monitor = monitor_of(draw, label_names, seed, 150, level=0.05)
        alarms += monitor.observe_all(draw(seed + 1000, 10_000)) is not None
    assert alarms <= 2  # of 8 at 0.05: more in six of 1,000


def test_another_mix_of_labels_can_be_reported_without_an_alarm(draw, label_names) -> None:
    """Length and logprob go with the label, and are ranked within it."""
    monitor = monitor_of(draw, label_names, alarm_on_labels=False)
    assert monitor.observe_all(draw(7, 600, mix=(0.05, 0.15, 0.8))) is None
    states = {state.feature: state for state in monitor.features()}
    assert states["answer"].log_e_value > 10
    assert "varied is answered by" in states["answer"].effect.explanation
    loud = monitor_of(draw, label_names)
    loud.observe_all(draw(7, 600, mix=(0.05, 0.15, 0.8)))
    assert set(loud.alarms) == {"answer"}


def test_an_alarm_says_by_how_much_and_stays_until_acknowledged(draw, label_names) -> None:
    monitor = monitor_of(draw, label_names)
    alarm = monitor.observe_all(draw(8, 100, unparsed=0.6))
    assert alarm is not None
    assert "fewer traces can be parsed" in alarm
    assert "false alarm level 1%" in alarm
    assert monitor.observe_all(draw(9, 50)) == monitor.alarm
    assert monitor.alarms["parsed"].effect.archived == pytest.approx(0.98, abs=0.03)
    monitor.acknowledge()
    assert (monitor.alarm, monitor.num_served, monitor.num_acknowledged) == (None, 0, 1)
    assert monitor.observe_all(draw(10, 100)) is None
    assert monitor.observe_all(draw(11, 100, unparsed=0.6)) is not None


def test_a_saved_monitor_goes_on_where_it_was(draw, label_names, tmp_path: Path) -> None:
    monitor = monitor_of(draw, label_names)
    monitor.observe_all(draw(12, 80))
    monitor.observe_all([replace(draw(13, 1)[0], mean_logprob=None, confidence=None)])
    monitor.save(tmp_path)
    loaded = ShiftMonitor.load(tmp_path, monitor.reference)
    for trace in draw(14, 120, length=130):
        assert monitor.observe(trace) == loaded.observe(trace)
    assert monitor.features() == loaded.features()
    assert monitor.alarm is not None
    loaded.save(tmp_path)
    assert ShiftMonitor.load(tmp_path, monitor.reference).alarms == monitor.alarms


def test_a_kill_between_the_two_files_of_a_state_loses_only_the_last_traces(
    draw, label_names, tmp_path: Path
) -> None:
    monitor = monitor_of(draw, label_names)
    monitor.observe_all(draw(17, 40))
    monitor.save(tmp_path)
    old, states = (tmp_path / "monitor.json").read_bytes(), monitor.features()
    monitor.observe_all(draw(18, 10, length=130))
    monitor.save(tmp_path)
    (tmp_path / "monitor.json").write_bytes(old)  # as if only the first had been renamed
    assert ShiftMonitor.load(tmp_path, monitor.reference).features() == states


def test_a_state_that_cannot_be_read_is_refused(draw, label_names, tmp_path: Path) -> None:
    monitor = monitor_of(draw, label_names)
    with pytest.raises(DataError, match="no state of a monitor"):
        ShiftMonitor.load(tmp_path, monitor.reference)
    monitor.observe_all(draw(15, 3))
    monitor.save(tmp_path)
    state = json.loads((tmp_path / "monitor.json").read_text())
    (tmp_path / "monitor.json").write_text(json.dumps(state | {"num_served": 9}))
    with pytest.raises(DataError, match="3 served traces, expected 9"):
        ShiftMonitor.load(tmp_path, monitor.reference)
    (tmp_path / "monitor.json").write_text(json.dumps(state | {"bettors": {}}))
    with pytest.raises(DataError, match="begin anew"):
        ShiftMonitor.load(tmp_path, monitor.reference)
    with pytest.raises(DataError, match="level 1"):
        ShiftMonitor(monitor.reference, level=1)


def test_numbers_that_are_not_known_are_left_out(draw, label_names) -> None:
    bare = [replace(one, mean_logprob=None, confidence=None) for one in draw(16, 200)]
    monitor = ShiftMonitor(TraceReference.of(bare, label_names))
    assert monitor.observe_all(bare[:50]) is None
    states = {state.feature: state for state in monitor.features()}
    assert states["confidence"].log_e_value == 0
    assert states["confidence"].effect.explanation == "confidence is not known"
