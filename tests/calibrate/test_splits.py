"""Parts of the clips in a fit."""

import random

import pytest

from calibrate.config import CalibrateConfig
from calibrate.splits import ClipParts, held_out_ids
from tests.groups import make_sample
from wire.types import Sample, Split


def clips(split: Split, count: int, labels: str = "ab") -> list[Sample]:
    return [
        make_sample(labels[n % len(labels)], id=f"{split}-{n:03d}", split=split)
        for n in range(count)
    ]


EVERY = [clip for split in Split for clip in clips(split, 40)]


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def test_a_share_of_the_cal_clips_of_each_label_is_held_out_whatever_order_they_come_in():
    parts = ClipParts.of(EVERY, CalibrateConfig())
    assert (len(parts.learned), len(parts.held_out)) == (30, 10)
    assert {s.label for s in parts.held_out} == {"a", "b"}
    assert sum(s.label == "a" for s in parts.held_out) == 5
    assert not set(ids(parts.learned)) & set(ids(parts.held_out))
    shuffled = random.Random(0).sample(EVERY, len(EVERY))
    assert ClipParts.of(shuffled, CalibrateConfig()) == parts
    for part in (parts.learned, parts.held_out, parts.val, parts.test):
        assert ids(part) == sorted(ids(part))


def test_a_larger_share_holds_out_the_same_clips_and_more_and_never_all():
    few, more = (held_out_ids(clips(Split.CAL, 40), share) for share in (0.25, 0.5))
    assert few < more
    assert not held_out_ids(clips(Split.CAL, 2), 0.99)


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_where_train_clips_are_learned_from_all_cal_clips_are_held_out(share: float):
    parts = ClipParts.of(EVERY, CalibrateConfig(split="train", holdout_frac=share))
    assert len(parts.learned) == 40
    assert ids(parts.held_out) == (ids(clips(Split.CAL, 40)) if share else [])


def test_the_split_that_is_measured_may_be_another_than_test():
    parts = ClipParts.of(EVERY, CalibrateConfig(), Split.VAL)
    assert parts.test == parts.val == clips(Split.VAL, 40)


def test_traces_of_a_fit_are_counted_for_the_plan():
    parts = ClipParts.of(EVERY, CalibrateConfig())
    config = CalibrateConfig(candidates=("policy", "verdict", "head"))
    assert (parts.num_groups(config), parts.num_rollouts(config)) == (80, 4 * 30 + 50)
    voting = CalibrateConfig()
    assert parts.num_groups(voting) == 80 + 90
    assert parts.num_rollouts(voting) == 4 * (30 + 90) + 50
