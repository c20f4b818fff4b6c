"""Which val clips are asked about, and what is refused before anything starts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.inputs.samples import SampleSplits, stage_faults
from cluster.inputs.validation_clips import validation_clips
from tests.cluster.session_fakes import NAMES, TEACHER, make_config, make_samples
from wire.types import Sample, Split

VAL = [s for s in make_samples(val=50) if s.split is Split.VAL]  # 10 of each label
UNEVEN = [s for s in VAL if s.label == NAMES[0] or int(s.id.removeprefix("val-")) < 10]  # 10 : 2


def labels(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(sample.label for sample in samples)


def test_each_label_has_its_share():
    assert set(labels(validation_clips(VAL, 20, 0)).values()) == {4}
    assert labels(UNEVEN) == {NAMES[0]: 10} | dict.fromkeys(NAMES[1:], 2)
    assert labels(validation_clips(UNEVEN, 9, 0)) == {NAMES[0]: 5} | dict.fromkeys(NAMES[1:], 1)


def test_the_clips_depend_on_the_seed_alone():
    ids = [[s.id for s in validation_clips(VAL[::-1], 20, seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] == [s.id for s in validation_clips(VAL, 20, 0)]
    assert ids[0] != ids[2]
    assert len(set(ids[0])) == 20


def test_fewer_are_the_first_of_more_and_all_are_taken_where_there_are_no_more():
    assert validation_clips(VAL, 30, 3)[:10] == validation_clips(VAL, 10, 3)
    assert sorted(s.id for s in validation_clips(VAL, 99, 3)) == sorted(s.id for s in VAL)


def faults(samples: Sequence[Sample] = (), **changes: Any) -> list[str]:
    config = make_config(**changes)
    data = SampleSplits(samples=list(samples) or make_samples())
    return [str(fault) for fault in stage_faults(config, data, config.chain.names)]


EVERY = {"every": 5}


def test_a_recipe_that_is_validated_on_what_is_there_has_no_fault():
    assert faults(validate=EVERY) == []
    assert faults(validate=EVERY, grpo={"keep_best_by": "val/reward/format/mean"}) == []


def test_a_manifest_without_val_clips_is_refused_by_what_it_has():
    (first, *_) = faults(make_samples(val=0), validate=EVERY)
    assert first == (
        "coldstart is validated (validate.every = 5), and the manifest has no samples with "
        "split='val', but 8 train, 5 cal, 4 test; give some rows split 'val', or set "
        "validate.every = 0"
    )
    assert faults(make_samples(val=0)) == []


def test_a_stage_is_not_validated_on_what_it_learns_from():
    validate = {"split": "cal", **EVERY}
    (fault,) = faults(validate=validate)
    assert fault.startswith("calibrated learns from 5 of the 5 clips that it is validated on, such")
    stages = [{"name": "g", "kind": "grpo", "clips": {"splits": ["train", "val"]}}]
    (fault,) = faults(validate=EVERY, stages=stages)
    assert "g learns from 2 of the 2 clips" in fault


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grpo": {"validate": {"metric": "val/acuracy"}}},
            "grpo: validate.metric = 'val/acuracy'; did you mean 'val/accuracy'",
        ),
        (
            {"calibrate": {"validate": {"metric": "val/reward/mean"}}},
            "calibrated: validate.metric = 'val/reward/mean'",
        ),
        ({"grpo": {"validate": {"metric": "val/reward/acc/mean"}}}, "'val/reward/accuracy/mean'"),
        ({"coldstart": {"validate": {"metric": "val/nll"}}}, "none of 2 val clips has one"),
        ({"grpo": {"keep_best_by": "reward/men"}}, "did you mean 'reward/mean'"),
        ({"grpo": {"keep_best_by": "reward/acuracy/mean"}}, "did you mean 'reward/accuracy/mean'"),
        ({"grpo": {"keep_best_by": "val/f1"}}, "grpo: keep_best_by = 'val/f1'; "),
        (
            {"grpo": {"keep_best_by": "val/accuracy", "validate": {"every": 0}}},
            "but validate.every = 0; set it",
        ),
    ],
)
def test_a_metric_that_nothing_logs_is_refused_with_the_nearest(changes: dict, message: str):
    (fault,) = faults(validate=EVERY, **changes)
    assert message in fault


def test_nll_is_a_metric_where_val_clips_have_traces():
    samples = [replace(s, trace=TEACHER) for s in make_samples()]
    assert faults(samples, validate=EVERY, coldstart={"validate": {"metric": "val/nll"}}) == []
