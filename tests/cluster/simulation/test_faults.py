"""Faults of a simulated fleet: when they happen."""

from itertools import islice
from statistics import fmean

import pytest

from cluster.simulation.faults import FaultRates, RoomChange, times_of


def test_faults_come_after_the_mean_time_that_was_given():
    times = list(islice(times_of(0, "slot-1", 100.0), 4000))
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert fmean(gaps) == pytest.approx(100, rel=0.05)
    assert all(gap > 0 for gap in gaps)


def test_faults_depend_on_seed_and_name_alone():
    first = list(islice(times_of(0, "slot-1", 100.0), 5))
    assert first == list(islice(times_of(0, "slot-1", 100.0), 5))
    assert first != list(islice(times_of(0, "slot-2", 100.0), 5))
    assert first != list(islice(times_of(1, "slot-1", 100.0), 5))


def test_what_has_no_rate_never_fails():
    assert list(times_of(0, "slot-1", None)) == []
    assert not FaultRates().any
    assert FaultRates(rank_mtbf_s=1.0).any
    assert FaultRates(changes=(RoomChange(at_s=1.0, workers=2),)).any
