import pytest

from cluster.inputs.samples import SampleSplits, check_stages, stage_faults
from tests.cluster.session_fakes import make_config, make_samples
from wire.errors import ConfigError, DataError
from wire.types import Split

ALL = ("base", "coldstart", "grpo", "calibrated")


def splits(**sizes: int) -> SampleSplits:
    return SampleSplits(samples=make_samples(**sizes))


def test_samples_are_given_by_split():
    data = splits(train=3)
    assert [sample.id for sample in data.of(Split.TRAIN)] == ["train-0", "train-1", "train-2"]


def test_a_split_without_samples_is_refused():
    with pytest.raises(DataError, match="no samples with split='cal'"):
        splits(cal=0).of(Split.CAL)


def test_a_run_with_samples_for_every_stage_goes_through():
    check_stages(make_config(), splits(), ALL)


def test_only_the_splits_of_the_chosen_stages_are_needed():
    check_stages(make_config(), splits(train=0, cal=0), ["base"])
    check_stages(make_config(), splits(cal=0), ["base", "coldstart", "grpo"])


def test_all_faults_are_found_at_once():
    faults = list(stage_faults(make_config(), splits(test=0, train=0, cal=0), ALL))
    assert [fault for fault in faults if "has no samples" in str(fault)] == faults
    assert len(faults) == 3


def test_a_cold_start_without_epochs_is_refused():
    with pytest.raises(ConfigError, match="leaves the cold start out"):
        make_config(coldstart={"epochs": 0}).stages_of("coldstart")


def test_a_head_needs_two_labels():
    config = make_config(calibrate={"num_traces": 2, "methods": ["head"]})
    with pytest.raises(DataError, match="a head needs two labels"):
        check_stages(config, splits(cal=1), ["calibrated"])
