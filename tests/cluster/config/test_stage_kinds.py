"""Kinds of stages: the clips they select, what the data lack for them, how much they do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.config.chain import read_stage
from cluster.config.clip_selection import ClipSelection
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.stage_kinds import STAGE_KINDS
from cluster.config.stage_work import StageWork
from cluster.config.stages import num_updates
from cluster.stages.stage_functions import STAGE_FNS
from rollout.config import RolloutConfig
from tests.cluster.session_fakes import make_samples
from wire.config import validate
from wire.errors import ConfigError, DataError
from wire.types import Sample, Split

SAMPLES = make_samples()  # 8 train, 2 val, 5 cal, 4 test; five labels in turn
ROLLOUT = RolloutConfig(group_size=2)


def make(kind: str, **settings: Any) -> Stage:
    return read_stage({"name": "a", "kind": kind, **settings}, {})


def seen(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, every second one of them with the column seen = true."""
    return [replace(s, extra={"seen": i % 2 == 0}) for i, s in enumerate(samples)]


def without(samples: Sequence[Sample], split: str) -> list[Sample]:
    return [sample for sample in samples if sample.split != split]


def test_every_kind_is_declared_and_runs():
    assert STAGE_KINDS.keys() == STAGE_FNS.keys()
    for kind, stage in STAGE_KINDS.items():
        assert stage.model_fields["kind"].default == kind


# --- clips


def test_a_selection_has_each_clip_once_in_the_order_of_its_splits():
    clips = ClipSelection(splits=(Split.CAL, Split.VAL, Split.CAL))
    ids = [sample.id for sample in clips.of(SAMPLES)]
    assert ids == ["cal-0", "cal-1", "cal-2", "cal-3", "cal-4", "val-0", "val-1"]
    assert [sample.id for sample in SAMPLES if clips.fits(sample)] == [*ids[5:], *ids[:5]]


def test_a_selection_by_a_column_of_the_manifest():
    clips = ClipSelection(splits=(Split.TEST,), where={"seen": True})
    chosen = [sample.id for sample in clips.of(seen(SAMPLES))]
    assert chosen == [s.id for s in seen(SAMPLES) if s.split == "test" and s.extra["seen"]]
    assert 0 < len(chosen) < 4
    with pytest.raises(DataError, match="no samples with split='test' and seen=True; add some"):
        clips.of(SAMPLES)


def test_a_selection_says_what_it_selects():
    assert str(ClipSelection()) == "split='train'"
    both = ClipSelection(splits=(Split.CAL, Split.VAL), where={"room": "hall", "hour": 3})
    assert str(both) == "split='cal' or 'val' and room='hall' and hour=3"


@pytest.mark.parametrize(
    ("clips", "message"),
    [({"splits": []}, "splits"), ({"splits": ["trian"]}, "splits"), ({"wher": {}}, "'where'")],
)
def test_a_wrong_selection_is_refused(clips: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        validate(ClipSelection, clips, "clips")


# --- what the data lack


@pytest.mark.parametrize(
    ("stage", "split"),
    [
        (make("evaluate"), "test"),
        (make("evaluate", split="val", answer="label"), "val"),
        (make("sft"), "train"),
        (make("sft", data="labels"), "train"),
        (make("sft", data="own", clips={"splits": ["val"]}), "val"),
        (make("grpo"), "train"),
        (make("grpo", clips={"splits": ["cal"]}), "cal"),
        (make("grpo", clips={"splits": ["train", "cal"]}), "cal"),
        (make("calibrate"), "cal"),
        (make("calibrate", split="train"), "train"),
    ],
)
def test_a_stage_needs_the_clips_that_it_works_on(stage: Stage, split: str):
    assert not list(stage.data_faults(SAMPLES))
    faults = [str(fault) for fault in stage.data_faults(without(SAMPLES, split))]
    assert faults == [f"the manifest has no samples with split={split!r}; add some"]


def test_a_teacher_needs_traces():
    bare = [replace(sample, trace=None) for sample in SAMPLES]
    (fault,) = make("sft").data_faults(bare)
    assert str(fault).startswith("no train sample has a trace, and stage a learns from")
    (fault,) = make("sft", clips={"splits": ["cal"]}).data_faults(bare)
    assert str(fault).startswith("no sample with split='cal' has a trace")
    for data in ("labels", "own"):
        assert not list(make("sft", data=data).data_faults(bare))


def test_a_head_needs_two_labels():
    alike = [replace(sample, label="undo") for sample in SAMPLES]
    (fault,) = make("calibrate").data_faults(alike)
    assert "have the label {'undo'}; a head needs two labels or more" in str(fault)
    assert not list(make("calibrate", methods=["verdict"]).data_faults(alike))


def test_a_teacher_is_learned_from_where_it_has_traces():
    some = [replace(s, trace=None) if s.id == "train-3" else s for s in SAMPLES]
    stage = make("sft")
    assert isinstance(stage, SftStage)
    assert "train-3" not in {sample.id for sample in stage.taught(some)}
    assert stage.work(some, ROLLOUT).clips == 7


# --- work


@pytest.mark.parametrize(
    ("stage", "work"),
    [
        (make("evaluate"), StageWork()),
        (
            make("sft", epochs=3, batch_size=3),
            StageWork(clips=8, epochs=3, examples=8, updates=3 * 3),
        ),
        (
            make("sft", data="labels", epochs=2, batch_size=4, clips={"splits": ["cal"]}),
            StageWork(clips=5, epochs=2, examples=5, updates=2 * 2),
        ),
        (
            make("sft", data="own", num_groups=6, epochs=2, batch_size=5),
            StageWork(clips=8, epochs=2, groups=6, rollouts=12, examples=12, updates=2 * 3),
        ),
        (
            make("grpo", num_steps=5, groups_per_step=4, groups_per_update=2, save_every=2),
            StageWork(
                **{"clips": 8, "epochs": 2.5, "groups": 20, "rollouts": 40, "examples": 40},
                **{"updates": 10, "steps": 5, "saves": 3},
            ),
        ),
        (
            make("calibrate", num_traces=3, epochs=2, batch_size=4),
            StageWork(clips=5, epochs=2, groups=13, rollouts=35, examples=15, updates=2 * 4),
        ),
        (
            make("calibrate", num_traces=3, methods=["head"]),
            StageWork(clips=5, groups=13, rollouts=35, examples=15),
        ),
    ],
)
def test_the_work_of_a_stage(stage: Stage, work: StageWork):
    assert stage.work(SAMPLES, ROLLOUT) == work


def test_without_a_manifest_only_what_depends_on_it_is_unknown():
    grpo = make("grpo", num_steps=5, groups_per_step=4).work(None, ROLLOUT)
    assert (grpo.clips, grpo.epochs, grpo.rollouts, grpo.updates) == (None, None, 40, 5)
    own = make("sft", data="own", num_groups=6, batch_size=6, epochs=1).work(None, ROLLOUT)
    assert (own.clips, own.rollouts, own.examples, own.updates) == (None, 12, 12, 2)
    taught = make("sft").work(None, ROLLOUT)
    assert (taught.clips, taught.examples, taught.updates, taught.rollouts) == (None, None, None, 0)
    calibrated = make("calibrate").work(None, ROLLOUT)
    assert (calibrated.groups, calibrated.rollouts, calibrated.updates) == (None, None, None)


def test_the_last_batch_of_an_epoch_may_be_smaller():
    assert [num_updates(rows, 2, 4) for rows in (1, 4, 5, 8)] == [2, 2, 4, 4]


# --- what the driver asks of a kind


@pytest.mark.parametrize(
    ("stage", "leaves", "loads", "versions", "checkpoints"),
    [
        (make("evaluate"), False, True, 0, 0),
        (make("evaluate", answer="label"), False, False, 0, 0),
        (make("sft"), True, False, 1, 2),
        (make("sft", data="labels"), True, False, 1, 2),
        (make("sft", data="own"), True, True, 1, 2),
        (make("grpo", num_steps=5, keep_last=3, keep_best=2), True, True, 6, 5),
        (make("calibrate"), False, True, 0, 2),
        (make("calibrate", methods=["head"]), False, True, 0, 0),
    ],
)
def test_what_a_kind_leaves_and_loads(
    stage: Stage, leaves: bool, loads: bool, versions: int, checkpoints: int
):
    assert (stage.leaves_policy, stage.loads_engines) == (leaves, loads)
    assert (stage.num_versions, stage.kept_checkpoints) == (versions, checkpoints)


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (make("evaluate", view="blank"), "the answer it writes on test, blank clips"),
        (make("evaluate", answer="label", split="val"), "the label asked directly on val"),
        (make("sft"), "supervised on the teacher's traces"),
        (make("sft", data="labels"), "supervised on labels alone"),
        (make("sft", data="own"), "supervised on its own traces with full reward"),
        (make("grpo"), "GRPO, the answer it writes"),
        (
            make("grpo", clips={"splits": ["cal"]}),
            "GRPO on clips with split='cal', the answer it writes",
        ),
        (make("calibrate"), "verdict and head on its own traces"),
        (make("calibrate", methods=["head"], title="mine"), "mine"),
    ],
)
def test_a_stage_has_a_line_for_tables(stage: Stage, text: str):
    assert stage.text == text
