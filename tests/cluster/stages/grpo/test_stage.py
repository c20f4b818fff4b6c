"""A step of GRPO: what is asked of the learner, in which order; engines and learner are fakes."""

from pathlib import Path
from typing import Any

import pytest

from cluster.resume.loop_state import LoopState
from cluster.stages.grpo.stage import run_grpo_stage, train_grpo
from tests.cluster.session_fakes import (
    FIRST_STEP,
    FakeLearner,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.archive.archive import read_groups
from wire.types import Sample, Split

GRPO = {"num_steps": 2, "groups_per_step": 4, "save_every": 1}
TRAIN = [sample for sample in make_samples(train=8) if sample.split is Split.TRAIN]


def by_turns(weights: str, sample: Sample, index: int) -> str:
    """The first trace is right, the second wrong; both right on every third clip."""
    teaches = int(sample.id.removeprefix("train-")) % 3
    label = sample.label if index == 0 or not teaches else "none of them"
    return f"<think>up {index}</think><answer>{label}</answer>"


async def train(path: Path, **grpo: Any) -> tuple[FakeLearner, Path]:
    config = make_config(grpo=GRPO | grpo)
    run_dir = make_run_dir(path, config)
    with open_fakes(config, run_dir, TRAIN, ("base", FIRST_STEP)) as (session, engines, learner, _):
        engines.write = by_turns
        await train_grpo(session, grpo_run(session))
    run_dir.close()
    return learner, run_dir.path


async def test_epochs_pass_over_the_same_mini_batches_again(tmp_path: Path):
    learner, _ = await train(tmp_path, ppo_epochs=3, groups_per_update=2)
    assert len(learner.steps) == 2 * 3 * 2
    batches = [rows for _, rows in learner.steps[:6]]
    assert batches[:2] == batches[2:4] == batches[4:]
    assert [len(rows) for rows in batches] == [2] * 6
    assert batches[0] != batches[1]


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, False),  # one update: its own forward pass knows
        ({"ppo_epochs": 2}, True),
        ({"ppo_epochs": 2, "loss": {"old_logprobs": "engine", "rollout_is": "none"}}, False),
        ({"loss": {"kl_coef": 0.1}}, True),
    ],
)
async def test_old_logprobs_are_computed_where_they_are_needed(
    tmp_path: Path, settings: dict, passes: bool
):
    learner, _ = await train(tmp_path, **settings)
    responses = [r for _, rows in learner.steps for row in rows for r in row.responses]
    assert {r.old_logprobs is not None for r in responses} == {passes}


@pytest.mark.parametrize("name", ["kl_loss_coef", "kl_coef", None])
async def test_the_reference_is_asked_only_for_a_kl_term(tmp_path: Path, name: str | None):
    learner, _ = await train(tmp_path, loss={name: 0.1} if name else {})
    trained = [row for _, rows in learner.steps for row in rows]
    assert len(learner.referred) == (len(trained) if name else 0)
    assert {r.ref_logprobs is not None for row in trained for r in row.responses} == {bool(name)}


@pytest.mark.parametrize(
    ("settings", "seeded"),
    [
        ({}, False),
        ({"rollout": {"group_size": 2, "seeded_sampling": True}}, True),
        ({"deterministic": True}, True),
    ],
)
async def test_traces_to_train_on_have_seeds_where_the_recipe_wants_them_and_measured_ones_always(
    tmp_path: Path, settings: dict, seeded: bool
):
    config = make_config(grpo=GRPO, **settings)
    run_dir = make_run_dir(tmp_path, config)
    with open_fakes(config, run_dir, make_samples(), ("base", FIRST_STEP)) as (
        session,
        engines,
        *_,
    ):
        await run_grpo_stage(session, grpo_run(session))
    run_dir.close()
    train = [one.seed for one in engines.samplings if one.n == 2]
    measured = [one.seed for one in engines.samplings if one.n == 1]
    assert len(train) == 8
    assert len(measured) == 4
    assert None not in measured
    assert len(set(train)) == (8 if seeded else 1)
    assert (None in train) is not seeded


async def test_groups_without_signal_are_replaced_by_others(tmp_path: Path):
    learner, run_dir = await train(tmp_path, filter_groups={"enable": True})
    assert [len(rows) for _, rows in learner.steps] == [4, 4]
    for _, rows in learner.steps:
        assert all({r.advantage > 0 for r in row.responses} == {True, False} for row in rows)
    archived = list(read_groups(run_dir / "archive"))
    assert len(archived) > 8, "those without signal are archived, too"
    state = LoopState.read(run_dir / "checkpoints/grpo/step-000002")
    assert state.next_index == len(archived)


async def test_a_step_at_its_bound_trains_the_groups_with_signal_that_it_has(tmp_path: Path):
    filtering = {"enable": True, "max_num_gen_batches": 1}
    learner, _ = await train(tmp_path, filter_groups=filtering)
    assert [len(rows) < 4 for _, rows in learner.steps].count(True) > 0
    assert sum(len(rows) for _, rows in learner.steps) == 5  # of 8 clips, 3 teach nothing


async def test_without_any_signal_versions_still_count_steps(tmp_path: Path):
    config = make_config(grpo=GRPO | {"filter_groups": {"enable": True, "max_num_gen_batches": 1}})
    run_dir = make_run_dir(tmp_path, config)
    with open_fakes(config, run_dir, TRAIN, ("base", FIRST_STEP)) as (session, engines, learner, _):
        await train_grpo(session, grpo_run(session))
        assert learner.steps == []
        assert engines.version.step == FIRST_STEP + 2
    run_dir.close()
