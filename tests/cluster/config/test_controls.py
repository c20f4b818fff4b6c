"""Declared control arms: names, titles and order, versions, and their place beside any chain."""

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.config.chain import Chain
from cluster.config.controls import (
    ARMS,
    calibration_of,
    control_arms,
    grpo_of,
    main_stages,
    own_step,
    read_titles,
    titles,
)
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from tests.cluster.session_fakes import make_config
from wire.types import Split

TITLES = {
    "base": "the model before any training",
    "coldstart": "stage 1: supervised on the teacher's traces",
    "rejection": "supervised on the cold start's own right traces, as many rollouts as GRPO",
    "grpo": "stage 2: GRPO, the answer it writes",
    "grpo_more": "GRPO with the calibration clips too, and as many steps again",
    "policy_probability": "GRPO's answer, with the policy's probability of each label",
    "vote": "most frequent answer of several traces of the GRPO policy",
    "calibrated": "stage 3: the verdict on one own trace",
    "head": "a linear head on the same traces",
    "classifier": "the published classifier, calibrated",
    "verdict_teacher": "a verdict trained on the teacher's traces",
    "verdict_train": "a verdict trained on traces of clips that GRPO trained on",
    "video_only_1x": "the verdict without a trace",
    "video_only_3x": "the same, three times the updates",
    "video_only_10x": "the same, ten times the updates",
    "blank": "GRPO, shown a blank clip",
    "shuffled": "GRPO, shown the frames in another order",
    "verdict_blank": "the verdict, trace and verdict on a blank clip",
    "verdict_shuffled": "the verdict, trace and verdict on frames in another order",
    "trace_accuracy": "sampled traces of the GRPO policy by split",
    "coldstart_val": "the cold start, on val",
    "coldstart_2x": "a cold start of twice the epochs, on val",
}
"""What tables show, in their order."""
CHAIN: list[dict[str, Any]] = [
    {"name": "taught", "kind": "sft", "epochs": 4, "batch_size": 3},
    {"name": "first", "kind": "grpo", "num_steps": 2, "groups_per_step": 6},
    {"name": "second", "kind": "grpo", "num_steps": 9, "clips": {"splits": ["cal"]}},
    {"name": "verdict", "kind": "calibrate", "split": "train", "num_traces": 7},
]


def test_every_arm_is_declared_under_its_name():
    arms = control_arms(make_config())
    assert set(arms) == set(ARMS)
    assert {name: arm.stage.name for name, arm in arms.items()} == {name: name for name in ARMS}


def test_the_titles_and_their_order_are_those_of_the_published_tables():
    assert list(titles(make_config()).items()) == list(TITLES.items())
    assert list(read_titles(make_config().model_dump(mode="json")).items()) == list(TITLES.items())
    assert list(read_titles({}).items()) == list(TITLES.items()), "an unreadable recipe"


def test_arms_start_from_the_stages_of_the_default_chain():
    arms = control_arms(make_config())
    starts = {name: arm.stage.from_ for name, arm in arms.items()}
    others = {"rejection": "coldstart", "coldstart_val": "coldstart", "coldstart_2x": "base"}
    assert starts == {name: others.get(name, "grpo") for name in ARMS}
    after = {name: arm.after for name, arm in arms.items() if arm.after != "grpo"}
    assert after == {
        **dict.fromkeys(("rejection", "coldstart_val", "coldstart_2x"), "coldstart"),
        **dict.fromkeys(("verdict_blank", "verdict_shuffled"), "calibrated"),
    }


@pytest.mark.parametrize("stages", [(), CHAIN])
def test_the_versions_of_an_arm_are_its_own(stages: Sequence[dict[str, Any]]):
    config = make_config(stages=list(stages))
    taken = set(range(config.chain.last_version_step + 1))
    for name, arm in control_arms(config).items():
        first = own_step(config, name)
        own = set(range(first, first + arm.stage.num_versions))
        assert not own & taken, name
        taken |= own


def test_arms_of_a_chain_of_ones_own_take_its_stages_and_their_settings():
    config = make_config(stages=CHAIN, controls={"num_votes": 3})
    arms = control_arms(config)
    assert (grpo_of(config), calibration_of(config)) == (
        config.chain["second"],
        config.chain["verdict"],
    )
    more, rejection, longer = (
        arms[name].stage for name in ("grpo_more", "rejection", "coldstart_2x")
    )
    assert isinstance(more, GrpoStage)
    assert isinstance(rejection, SftStage)
    assert isinstance(longer, SftStage)
    assert (more.from_, more.num_steps, more.clips.splits) == (
        *("second", 9),
        (Split.TRAIN, Split.TRAIN),
    )
    assert (rejection.from_, rejection.num_groups, rejection.data) == ("taught", 9 * 2, "own")
    assert (longer.epochs, longer.batch_size, longer.split) == (2 * 4, 3, Split.VAL)
    blank = arms["blank"].stage
    assert isinstance(blank, EvaluateStage)
    assert (blank.from_, arms["verdict_blank"].after) == ("second", "verdict")


def test_titles_beside_a_chain_of_ones_own():
    listed = list(titles(make_config(stages=CHAIN)))
    assert listed[:3] == ["taught", "rejection", "first"]
    assert listed[3:8] == ["second", "grpo_more", "policy_probability", "vote", "verdict"]
    assert listed[8:11] == ["verdict_head", "verdict_classifier", "verdict_teacher"]
    assert set(listed) == {"taught", "first", "second", "verdict", *listed[8:10], *ARMS}


def test_arms_stand_beside_the_grpo_that_the_calibration_starts_from():
    chain = make_config(stages=[*CHAIN[:-1], {**CHAIN[-1], "from": "first"}]).chain
    main = main_stages(chain)
    assert (main.coldstart, main.grpo, main.calibrated) == ("taught", "first", "verdict")


@pytest.mark.parametrize(
    ("stages", "main"),
    [
        ([], ("coldstart", "grpo", "calibrated")),
        ([{"name": "e", "kind": "evaluate"}], ("coldstart", "grpo", "calibrated")),
        ([{"name": "g", "kind": "grpo"}], ("coldstart", "g", "calibrated")),
        (
            [{"name": "s", "kind": "sft"}, {"name": "v", "kind": "calibrate"}],
            ("s", "grpo", "v"),
        ),
    ],
)
def test_a_chain_without_a_kind_has_its_default_name(
    stages: list[dict[str, Any]], main: tuple[str, ...]
):
    found = main_stages(make_config(stages=stages).chain if stages else Chain([]))
    assert (found.coldstart, found.grpo, found.calibrated) == main


def test_a_chain_without_grpo_has_all_titles_at_its_end():
    config = make_config(stages=[{"name": "labels", "kind": "sft", "data": "labels"}])
    listed = list(titles(config))
    assert listed[:2] == ["labels", "rejection"]
    assert set(listed) == {"labels", *ARMS}
