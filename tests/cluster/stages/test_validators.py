"""Validation of each kind of stage, in whole chains; engines and learner are fakes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.run_dir import RunDir
from cluster.summary import print_summary
from learner.checkpoint import tags
from tests.cluster.session_fakes import (
    NAMES,
    TEACHER,
    Write,
    make_config,
    make_samples,
    write_model,
)
from tests.cluster.stages.chain_fakes import (
    BASE_WEIGHTS,
    Attempt,
    Killed,
    groups_of,
    names_of_versions,
    result,
    run_chain,
)
from wire.archive.archive import read_groups
from wire.types import Purpose, Sample, Split

SAMPLES = [
    replace(s, trace=TEACHER) if s.split is Split.VAL else s for s in make_samples(val=10, train=8)
]
STEPS = 6


def num_updates(weights: str) -> int:
    return weights.count("+")


def right_after(*updates: int) -> Write:
    """Right on val where the weights have had so many updates; elsewhere on every second clip."""

    def write(weights: str, sample: Sample, index: int) -> str:
        second = int(sample.id.rpartition("-")[2]) % 2 == 0
        good = num_updates(weights) in updates or second or sample.split is not Split.VAL
        return f"<think>up {index}</think><answer>{sample.label if good else 'none'}</answer>"

    return write


async def run(
    path: Path, stages: Sequence[dict[str, Any]], write: Write, **changes: Any
) -> tuple[RunDir, Attempt]:
    settings: dict[str, Any] = {
        "grpo": {"num_steps": STEPS, "groups_per_step": 2, "save_every": 100},
        "validate": {"every": 2},
        "stages": stages,
    }
    config = make_config(**settings | changes)
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    attempt = await run_chain(run_dir, config, samples=SAMPLES, write=write)
    run_dir.close()
    return run_dir, attempt


def validations(attempt: Attempt, stage: str) -> dict[int, dict[str, float]]:
    """Step -> figures of a stage's validations."""
    lines = zip(attempt.metrics.lines, attempt.metrics.values, strict=True)
    return {step: v for (name, step), v in lines if name == stage and "val/accuracy" in v}


GRPO = [{"name": "g", "kind": "grpo"}]


# --- GRPO


async def test_grpo_is_validated_on_the_same_clips_each_time_each_by_one_version(tmp_path: Path):
    run_dir, attempt = await run(tmp_path, GRPO, right_after(4), validate={"every": 2})
    found = validations(attempt, "g")
    assert {step: v["val/accuracy"] for step, v in found.items()} == {0: 0.5, 2: 0.5, 4: 1, 6: 0.5}
    assert found[4]["val/unparsed_frac"] == 0
    assert found[4]["val/reward/accuracy/mean"] == 1
    assert found[4]["val/num_clips"] == 10
    assert found[4]["val/response_length/mean"] > 0
    first = attempt.metrics.lines.index(("g", 0))
    assert first < attempt.metrics.lines.index(("g", 1))
    groups = [g for g in groups_of(run_dir, "g") if g.purpose is Purpose.VALIDATION]
    asked = {step: [] for step in found}
    for group in groups:
        step = int(group.group_id.split("/")[2])
        asked[step].append(group.sample.id)
        assert num_updates(*names_of_versions(attempt)[group.policy_version]) == step
    assert len({tuple(sorted(ids)) for ids in asked.values()}) == 1
    assert set(asked[0]) == {s.id for s in SAMPLES if s.split is Split.VAL}


async def test_rollouts_go_first_and_a_validation_fills_the_room_beside_them(tmp_path: Path):
    _, attempt = await run(
        tmp_path, GRPO, right_after(), grpo={"num_steps": 2}, validate={"every": 1}
    )
    splits: dict[str, str] = {}
    for weights, video in attempt.engines.wrote:
        split = video.split("/")[-1].split("-")[0]
        splits[weights] = splits.get(weights, "") + split[0] + split[1]
    first, second, last = splits.values()
    assert first == "tr" * 64 + "va" * 10
    assert second == "tr" * 64 + "va" * 10
    assert last == "va" * 10 + "te" * 4


_OF_TIME = ("timing", "perf", "cache/clip", "limit/", "rollouter/", "trainer/", "effective_")


async def test_validation_changes_nothing_of_the_training(tmp_path: Path):
    seen = []
    for name, every in (("with", 1), ("without", 0)):
        run_dir, attempt = await run(
            tmp_path / name, GRPO, right_after(2), validate={"every": every}
        )
        groups = read_groups(run_dir.archive, Purpose.TRAIN)  # those written at once in any order
        trained = sorted(groups, key=lambda group: group.group_id)
        lines = zip(attempt.metrics.lines, attempt.metrics.values, strict=True)
        figures = [
            (
                line,
                {k: v for k, v in values.items() if not k.startswith(_OF_TIME)},
            )
            for line, values in lines
            if "val/accuracy" not in values
        ]
        seen.append((attempt.learner.steps, trained, figures, result(run_dir, "g")["evaluation"]))
    assert seen[0] == seen[1]


async def test_too_few_or_too_many_clips_are_taken_label_by_label(tmp_path: Path):
    validate = {"every": 3, "num_clips": 5, "before_training": False}
    run_dir, attempt = await run(tmp_path, GRPO, right_after(), validate=validate)
    assert list(validations(attempt, "g")) == [3, 6]
    groups = [g for g in groups_of(run_dir, "g") if g.purpose is Purpose.VALIDATION]
    for step in (3, 6):
        labels = [g.sample.label for g in groups if g.policy_version.step == 1 + step]
        assert sorted(labels) == sorted(NAMES)


# --- early stop, best weights


async def test_grpo_stops_early_and_what_follows_goes_on_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stages = [*GRPO, {"name": "asked", "kind": "evaluate"}, {"name": "h", "kind": "grpo"}]
    validate = {"every": 1, "patience": 2}
    grpo = {"num_steps": 9, "groups_per_step": 2, "validate": {}}
    stages[2] |= {"num_steps": 1, "validate": {"every": 0}}
    run_dir, attempt = await run(tmp_path, stages, right_after(2), validate=validate, grpo=grpo)
    left = result(run_dir, "g")
    assert left["stopped_early"] == {
        **{"step": 5, "metric": "val/accuracy", "best": 1.0, "best_step": 2, "patience": 2}
    }
    assert left["validation"]["left_step"] == 5
    assert list(validations(attempt, "g")) == [0, 1, 2, 3, 4]
    row = next(row for row in attempt.summary["stages"] if row["name"] == "g")
    assert row["stopped_early"] == left["stopped_early"]
    print_summary(attempt.summary, run_dir.path)
    assert "g: best val/accuracy 1 at step 2; stopped early at step 5" in capsys.readouterr().out
    weights = (run_dir.model("g") / "weights").read_text()
    assert num_updates(weights) == 5
    assert (run_dir.model("h") / "weights").read_text().startswith(f"{weights}+")
    named = names_of_versions(attempt)
    (measured,) = {g.policy_version for g in groups_of(run_dir, "asked")}
    assert measured.step == make_config(stages=stages, grpo=grpo).chain.last_step("g") == 10
    assert named[measured] == {weights}
    assert all(len(weights) == 1 for weights in named.values())


@pytest.mark.parametrize(("best", "kept"), [(2, 2), (6, 6), (0, 0)])
async def test_the_best_weights_are_what_the_stage_leaves(tmp_path: Path, best: int, kept: int):
    validate = {"every": 2, "restore_best": True}
    run_dir, attempt = await run(tmp_path, GRPO, right_after(best), validate=validate)
    left = result(run_dir, "g")
    assert left["validation"]["left_step"] == kept
    assert "stopped_early" not in left
    weights = (run_dir.model("g") / "weights").read_text()
    assert num_updates(weights) == kept
    assert weights.startswith(BASE_WEIGHTS)
    (measured,) = {
        g.policy_version for g in groups_of(run_dir, "g") if g.purpose is Purpose.EVALUATION
    }
    assert names_of_versions(attempt)[measured] == {weights}
    assert measured.step == 1 + STEPS + 1, "a version of its own"
    assert all(len(weights) == 1 for weights in names_of_versions(attempt).values())


async def test_checkpoints_are_kept_by_a_metric_of_validation(tmp_path: Path):
    grpo = {"num_steps": STEPS, "groups_per_step": 2, "save_every": 4}
    grpo |= {"keep_last": 1, "keep_best_by": "val/accuracy"}
    run_dir, _ = await run(tmp_path, GRPO, right_after(2), grpo=grpo, validate={"every": 2})
    assert tags(run_dir.checkpoints("g")) == ["step-000006", "step-000002"], "the last, the best"


async def test_a_stage_killed_after_its_early_stop_does_not_train_on(tmp_path: Path):
    grpo = {"num_steps": 9, "groups_per_step": 2, "save_every": 100}
    config = make_config(stages=GRPO, grpo=grpo, validate={"every": 1, "patience": 1})
    run_dir = RunDir.open(tmp_path / "run", config, resume=False, overwrite=False)
    write = right_after(1)

    def dies_when_measured(weights: str, sample: Sample, index: int) -> str:
        if sample.split is Split.TEST:
            raise Killed
        return write(weights, sample, index)

    await run_chain(run_dir, config, 10**6, samples=SAMPLES, write=dies_when_measured)
    assert run_dir.result("g") is None
    again = await run_chain(run_dir, config, samples=SAMPLES, write=write)
    assert result(run_dir, "g")["stopped_early"]["step"] == 3
    run_dir.close()
    assert again.learner.steps == []
    assert validations(again, "g") == {}


@pytest.mark.parametrize(("good", "left"), [((2,), 2), ((2, 5), 5)])
async def test_a_longer_stage_goes_on_from_its_last_step_and_still_knows_its_best(
    tmp_path: Path, good: tuple[int, ...], left: int
):
    validate = {"every": 1, "restore_best": True}
    grpo: dict[str, Any] = {"num_steps": 3, "groups_per_step": 2, "save_every": 100}
    run_dir, _ = await run(tmp_path, GRPO, right_after(*good), grpo=grpo, validate=validate)
    assert num_updates((run_dir.model("g") / "weights").read_text()) == 2
    config = make_config(stages=GRPO, grpo=grpo | {"num_steps": 5}, validate=validate)
    run_dir = RunDir.open(tmp_path / "run", config, resume=True, overwrite=False)
    again = await run_chain(run_dir, config, samples=SAMPLES, write=right_after(*good))
    run_dir.close()
    assert [num_updates(before) for before, _ in again.learner.steps] == [3, 4]
    assert list(validations(again, "g")) == [4, 5]
    assert result(run_dir, "g")["validation"]["left_step"] == left
    assert num_updates((run_dir.model("g") / "weights").read_text()) == left
    assert all(len(weights) == 1 for weights in names_of_versions(again).values())


# --- the cold start and the verdict


SFT = [{"name": "taught", "kind": "sft", "batch_size": 4}]  # 3 epochs of 2 updates


async def test_a_cold_start_is_validated_by_targets_and_by_what_it_writes(tmp_path: Path):
    run_dir, attempt = await run(tmp_path, SFT, right_after(4))
    found = validations(attempt, "taught")
    assert {step: v["val/accuracy"] for step, v in found.items()} == {0: 0.5, 2: 0.5, 4: 1, 6: 0.5}
    assert {v["val/nll"] for v in found.values()} == {1.0}
    named = names_of_versions(attempt)
    assert all(len(weights) == 1 for weights in named.values())
    for group in groups_of(run_dir, "taught"):
        (weights,) = named[group.policy_version]
        is_last = group.purpose is Purpose.EVALUATION
        assert num_updates(weights) == (6 if is_last else int(group.group_id.split("/")[2]))
        assert (group.policy_version.step == 1) == is_last


async def test_a_cold_start_that_stops_early_leaves_its_best_weights(tmp_path: Path):
    validate = {"every": 1, "patience": 2, "restore_best": True}
    run_dir, _ = await run(tmp_path, SFT, right_after(1), validate=validate)
    left = result(run_dir, "taught")
    assert (left["stopped_early"]["step"], left["validation"]["left_step"]) == (3, 1)
    assert left["cost"]["num_updates"] == 3
    assert num_updates((run_dir.model("taught") / "weights").read_text()) == 1


async def test_labels_are_validated_by_the_learner_alone(tmp_path: Path):
    stages = [{"name": "labels", "kind": "sft", "data": "labels", "batch_size": 4}]
    run_dir, attempt = await run(tmp_path, stages, right_after())
    found = validations(attempt, "labels")
    assert list(found) == [0, 2, 4, 6]
    assert found[0]["val/nll"] == 1.0
    assert found[0]["val/accuracy"] == pytest.approx(1 / 5), "all labels are as likely: the first"
    assert attempt.engines.wrote == []
    assert not list(read_groups(run_dir.archive))


async def test_a_verdict_reads_the_traces_of_val_that_it_is_calibrated_with(tmp_path: Path):
    stages = [{"name": "verdict", "kind": "calibrate", "methods": ["verdict"], "epochs": 3}]
    write_model(model := tmp_path / "base-model", "base-model")
    run_dir, attempt = await run(tmp_path, stages, right_after(), model=str(model))
    found = validations(attempt, "verdict")
    assert list(found) == [0, 2, 4, 6, 8, 9]
    groups = groups_of(run_dir, "verdict")
    assert not [g for g in groups if g.purpose is Purpose.VALIDATION], "none is written twice"
    answers = [g for g in groups if g.purpose is Purpose.EVALUATION]
    assert len([g for g in answers if g.sample.split == "val"]) == 10
    assert result(run_dir, "verdict")["validation"]["num_validations"] == 6
