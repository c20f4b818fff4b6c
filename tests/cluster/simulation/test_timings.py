"""Timings of a simulated run, and lengths of its answers."""

from statistics import fmean

import pytest

from cluster.simulation.timings import Lengths, Timings
from wire.config import validate
from wire.errors import ConfigError


def lengths(**changes: float) -> Lengths:
    return Lengths(**{"mean": 400.0, "sigma": 0.6, "longest": 10_000, "seed": 1} | changes)


def test_lengths_have_the_mean_that_was_given_and_a_long_tail():
    drawn = [length for place in range(2000) for length in lengths().of(place, 8)]
    assert fmean(drawn) == pytest.approx(400, rel=0.02)
    assert max(drawn) > 2000


def test_lengths_without_spread_are_all_the_mean():
    assert set(lengths(sigma=0.0).of(3, 8)) == {400}


def test_lengths_are_cut_at_the_longest():
    assert max(lengths(longest=500).of(0, 1000)) == 500


def test_a_place_has_the_same_lengths_whenever_it_is_written_and_others_have_others():
    assert lengths().of(7, 8) == lengths().of(7, 8)
    assert lengths().of(7, 8) != lengths().of(8, 8)
    assert lengths().of(7, 8) != lengths(seed=2).of(7, 8)


def test_a_timing_that_cannot_be_is_refused_with_its_name():
    with pytest.raises(ConfigError, match="decode_step_s"):
        validate(Timings, {"decode_step_s": 0, "response_length": 100}, "--time")
