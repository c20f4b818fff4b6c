"""Runs that a resume makes longer: which stages go on, which are done anew, and that no trace of a
training that is no more is taken for one of the new training. Real run directories, archives and
loops; engines and learner are fakes."""

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import RunConfig
from cluster.controls.arm_inputs import archived_cost
from cluster.inputs.from_run import start_model
from cluster.report.archived import index_archive
from cluster.report.curves import read_curves
from cluster.report.gather import gather
from cluster.resume.archived_groups import ReusePolicy
from cluster.resume.attempts import first_own_attempt, read_attempts
from cluster.resume.loop_state import LoopState
from cluster.run import run_stages
from cluster.run_dir import RunDir
from cluster.stages.policy_versions import model_before
from cluster.status.run_status import read_status
from tests.cluster.session_fakes import make_config, make_samples, open_fakes
from tests.cluster.stages.chain_fakes import (
    CALIBRATE,
    CHAIN,
    Attempt,
    Killed,
    groups_of,
    names_of_versions,
    result,
    run_chain,
)
from tests.groups import make_group
from wire.archive.archive import Archive
from wire.errors import ConfigError
from wire.types import PolicyVersion, Purpose

GROUPS_PER_STEP = 2
AFTER_G1 = ("g2", "verdict", "unseen")
NOT_AFTER_G1 = ("labels", "own", "asked")


def recipe(g1: int = 3, stages: list[dict[str, Any]] = CHAIN, **changes: Any) -> RunConfig:
    """The chain of chain_fakes with so many steps of g1."""
    longer = [{**stage, **({"num_steps": g1} if stage["name"] == "g1" else {})} for stage in stages]
    return make_config(**{"stages": longer, "calibrate": CALIBRATE} | changes)


def open_new(path: Path, config: RunConfig) -> RunDir:
    return RunDir.open(path / "run", config, resume=False, overwrite=False)


async def attempt(path: Path, config: RunConfig, updates: int | None = None) -> Attempt:
    """Start or resume the run in a folder, killed after so many updates."""
    started = (path / "run/archive").exists()
    run_dir = RunDir.open(path / "run", config, resume=started, overwrite=False)
    try:
        return await run_chain(run_dir, config, updates)
    finally:
        run_dir.close()


def weights_of(path: Path, *names: str) -> dict[str, str]:
    """Weights that stages left, by their histories."""
    return {name: (path / f"run/stages/{name}/model/weights").read_text() for name in names}


def done(path: Path, name: str) -> dict[str, Any] | None:
    file = path / f"run/stages/{name}/done.json"
    return json.loads(file.read_text()) if file.exists() else None


TRAINED = ("labels", "own", "g1", "g2", "verdict")


async def test_a_finished_stage_goes_on_and_what_came_from_it_is_done_anew(tmp_path: Path):
    at_once, path = tmp_path / "at once", tmp_path / "longer"
    await attempt(at_once, recipe(5))
    first = await attempt(path, recipe(3))
    before = {name: done(path, name) for name in (*TRAINED, "unseen", "asked")}
    short = weights_of(path, "g1")["g1"]
    second = await attempt(path, recipe(5))
    assert second.learner.steps[0][0] == short, "from the last checkpoint, not from the start"
    assert weights_of(path, *TRAINED) == weights_of(at_once, *TRAINED)
    steps = [step for stage, step in second.metrics.lines if stage == "g1"]
    assert steps == [4, 5]
    for name in NOT_AFTER_G1:
        assert done(path, name) == before[name]
    for name in AFTER_G1:
        old = path / f"run/replaced/before-attempt-001/stages/{name}/done.json"
        assert json.loads(old.read_text()) == before[name]
    longer = done(path, "g1")
    assert longer is not None
    assert (longer["length"], longer["last_step"]) == (5, 5)
    named = names_of_versions(first, second)
    assert all(len(weights) == 1 for weights in named.values())
    run_dir = RunDir.open(path / "run", recipe(5), resume=True, overwrite=False)
    assert all(group.policy_version.attempt == 0 for group in groups_of(run_dir, "own"))
    trained = [g for g in groups_of(run_dir, "g2") if g.purpose is Purpose.TRAIN]
    assert {g.policy_version.attempt for g in trained} == {0, 1}, "both are kept"
    assert (run_dir.changes, run_dir.plan.reopened, run_dir.plan.restarted) == ((), (), ())
    assert json.loads((run_dir.path / "run.json").read_text())["stages"][2]["num_steps"] == 5
    old_recipe = run_dir.path / "replaced/before-attempt-001/run.json"
    assert json.loads(old_recipe.read_text())["stages"][2]["num_steps"] == 3
    run_dir.close()


UPDATES_OF_THE_REST = 2 + 3 + 4  # of g1, g2, and some of the verdict


@pytest.mark.parametrize("updates", range(UPDATES_OF_THE_REST))
async def test_a_run_made_longer_and_killed_at_any_update_ends_as_the_run_at_once(
    tmp_path: Path, updates: int, finished: Path, at_once: Path
):
    shutil.copytree(finished / "run", tmp_path / "run")
    await attempt(tmp_path, recipe(5), updates=updates)
    if updates < 2:
        assert (done(tmp_path, "g1") or {})["length"] == 3, "until the longer one has finished"
        assert [done(tmp_path, name) for name in AFTER_G1] == [None] * 3
    second = await attempt(tmp_path, recipe(5))
    assert weights_of(tmp_path, *TRAINED) == weights_of(at_once, *TRAINED)
    assert [row["name"] for row in second.summary["stages"]] == [one["name"] for one in CHAIN]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 3 steps."""
    path = tmp_path_factory.mktemp("finished")
    asyncio.run(attempt(path, recipe(3)))
    return path


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 5 steps."""
    path = tmp_path_factory.mktemp("at_once")
    asyncio.run(attempt(path, recipe(5)))
    return path


@pytest.mark.parametrize("deterministic", [False, True])
async def test_no_trace_of_a_replaced_training_is_trained(tmp_path: Path, deterministic: bool):
    """g2 was killed with groups in the archive. With g1 longer, their version steps are below the
    one that the new g2 starts from, as if its own start weights had written them."""
    how = {"deterministic": deterministic}
    before_g2 = sum(weights_of_g2_steps(await attempt(tmp_path / "count", recipe(3, **how))))
    path = tmp_path / "killed"
    await attempt(path, recipe(3, **how), updates=before_g2 + 2)
    run_dir = RunDir.open(path / "run", recipe(3, **how), resume=True, overwrite=False)
    old = [g for g in groups_of(run_dir, "g2") if g.purpose is Purpose.TRAIN]
    new_first = recipe(9, **how).chain.first_step("g2")
    assert old
    assert all(group.policy_version.step <= new_first for group in old), "else it tests nothing"
    run_dir.close()
    second = await attempt(path, recipe(9, **how))
    lines = zip(second.metrics.lines, second.metrics.values, strict=True)
    taken = [values["rollout/num_taken_up"] for (stage, _), values in lines if stage == "g2"]
    assert taken == [0.0, 0.0, 0.0]
    await attempt(tmp_path / "at once", recipe(9, **how))
    assert weights_of(path, "g2") == weights_of(tmp_path / "at once", "g2")
    assert first_own_attempt(path / "run", "g2") == 1


def weights_of_g2_steps(whole: Attempt) -> list[bool]:
    """For each update of a run, whether it came before g2."""
    steps = [stage for stage, _ in whole.metrics.lines]
    return [True] * (len(whole.learner.steps) - steps.count("g2") - steps.count("verdict"))


BESIDE: list[dict[str, Any]] = [
    {"name": "g1", "kind": "grpo"},
    {"name": "t", "kind": "grpo", "from": "base", "num_steps": 6, "clips": {"splits": ["cal"]}},
]


async def test_a_stage_that_does_not_depend_goes_on_under_its_new_version_numbers(tmp_path: Path):
    """t starts from the recipe's model, so it keeps its checkpoint and its archived groups; a
    longer g1 only gives its versions other numbers."""
    grpo = {"num_steps": 3, "groups_per_step": 2, "save_every": 2, "max_staleness": 1}

    def config(g1: int) -> RunConfig:
        return recipe(g1, BESIDE, grpo=grpo)

    await attempt(tmp_path, config(3), updates=3 + 3)  # after step 3 of t, of which step 2 is saved
    assert config(9).chain.first_step("t") == config(3).chain.first_step("t") + 6
    second = await attempt(tmp_path, config(9))
    lines = zip(second.metrics.lines, second.metrics.values, strict=True)
    of_t = {step: values for (stage, step), values in lines if stage == "t"}
    assert sorted(of_t) == [3, 4, 5, 6]
    assert of_t[6]["rollout/num_taken_up"] >= GROUPS_PER_STEP, "those of step 3 at least"


async def test_an_unfinished_stage_takes_more_steps_and_another_rate(tmp_path: Path):
    path = tmp_path / "run"
    stages = [{"name": "g1", "kind": "grpo"}]
    killed = await attempt(tmp_path, recipe(3, stages), updates=2)
    assert killed.summary == {}
    grpo = {"num_steps": 3, "groups_per_step": 2, "save_every": 3}
    changed = [{**stages[0], "optim": {"learning_rate": 0.5}}]
    second = await attempt(tmp_path, recipe(4, changed, grpo=grpo))
    assert [step for stage, step in second.metrics.lines if stage == "g1"] == [3, 4]
    attempts = read_attempts(path)
    assert attempts[0].changes == ()
    said = {
        change.name: (change.before, change.now, change.holds) for change in attempts[1].changes
    }
    assert said["stages.g1.num_steps"] == (3, 4, "from step 3 of g1")
    assert said["stages.g1.optim.learning_rate"] == (1e-6, 0.5, "from step 3 of g1")
    assert said["grpo.save_every"] == (1, 3, "from the next checkpoint on")
    assert attempts[1].restarted == ()


async def test_another_rate_ends_the_promise_of_equal_bits_and_a_constant_one_does_not(
    tmp_path: Path,
):
    stages = [{"name": "g1", "kind": "grpo"}]
    await attempt(tmp_path, recipe(3, stages, deterministic=True))
    await attempt(tmp_path, recipe(4, stages, deterministic=True))
    faster = [{**stages[0], "optim": {"learning_rate": 0.5}}]
    await attempt(tmp_path, recipe(5, faster, deterministic=True))
    noted = read_attempts(tmp_path / "run")
    assert noted[0].equals_bitwise(noted[1])
    assert not noted[1].equals_bitwise(noted[2])


def test_groups_of_before_a_new_beginning_are_never_allowed():
    policy = ReusePolicy(
        state=LoopState(),
        first_step=10,
        first_bitwise_equal_attempt=0,
        groups_per_step=2,
        max_staleness=9,
        first_attempt=2,
    )
    assert not policy.allows(PolicyVersion(attempt=1, step=3), 0)
    assert policy.allows(PolicyVersion(attempt=2, step=10), 0)


async def test_later_stages_wait_until_the_longer_one_has_finished(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "run", tmp_path / "run")
    run_dir = RunDir.open(tmp_path / "run", recipe(5), resume=True, overwrite=False)
    assert run_dir.plan.reopened == ("g1",)
    assert run_dir.result("g1") is None
    assert run_dir.plan.restarted[:3] == AFTER_G1
    with pytest.raises(ConfigError, match=r"makes g1 in .* longer .* this command does not run it"):
        await run_stages(recipe(5), run_dir, ["verdict"])
    with pytest.raises(ConfigError, match="verdict starts from g1, which is to be made longer"):
        model_before(recipe(5), run_dir, "verdict")
    run_dir.close()
    untouched = RunDir.open(tmp_path / "run", recipe(3), resume=True, overwrite=False)
    assert untouched.changes == (), "looking changes nothing"
    assert result(untouched, "verdict")
    untouched.close()


def resume_refused(path: Path, config: RunConfig) -> str:
    with pytest.raises(ConfigError) as refused:
        RunDir.open(path / "run", config, resume=True, overwrite=False)
    return str(refused.value)


async def test_what_cannot_be_made_longer_or_shorter_is_refused_with_the_reason_and_a_way_out(
    finished: Path, tmp_path: Path
):
    shutil.copytree(finished / "run", tmp_path / "run")
    said = resume_refused(tmp_path, recipe(2))
    assert "stages.g1.num_steps (3, now 2): g1 has finished 3 steps already" in said
    assert f"--from {tmp_path / 'run'}:g2 --run-dir NEW" in said, "the last one with a policy"
    faster = [
        {**stage, **({"optim": {"learning_rate": 0.5}} if stage["name"] == "g1" else {})}
        for stage in CHAIN
    ]
    assert "nothing of it is left to train; make it longer" in resume_refused(
        tmp_path, recipe(3, faster)
    )
    shutil.rmtree(tmp_path / "run/checkpoints/g1")
    said = resume_refused(tmp_path, recipe(5))
    assert "the checkpoint that it could go on from is gone" in said


async def test_a_run_of_an_earlier_version_without_lengths_is_made_longer_from_its_checkpoint(
    finished: Path, at_once: Path, tmp_path: Path
):
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("labels", "own", "g1", "g2", "verdict"):
        file = tmp_path / f"run/stages/{name}/done.json"
        old = json.loads(file.read_text())
        file.write_text(
            json.dumps({k: v for k, v in old.items() if k not in ("length", "last_step")})
        )
    await attempt(tmp_path, recipe(5))
    assert weights_of(tmp_path, *TRAINED) == weights_of(at_once, *TRAINED)
    assert (done(tmp_path, "labels") or {})["length"] == 3


async def test_status_and_report_say_what_changed_and_that_a_stage_goes_on(
    finished: Path, tmp_path: Path
):
    shutil.copytree(finished / "run", tmp_path / "run")
    await attempt(tmp_path, recipe(5), updates=1)
    status = read_status(tmp_path / "run")
    change = "attempt 1: stages.g1.num_steps = 5 (was 3), g1 goes on after 3 steps"
    assert status.changes == (
        change,
        "g1 goes on from 3 to 5 steps; its model is still the one of 3",
    )
    assert [one.name for one in status.finished] == ["labels", "own", "asked"]
    (tmp_path / "run/stages/g1/model/config.json").write_text("{}")
    facts = gather(tmp_path / "run", 4).run
    assert facts.changes == (change,)
    with pytest.raises(ConfigError, match="stage g1 is being made longer and has not finished"):
        start_model(f"{tmp_path / 'run'}:g1")
    await attempt(tmp_path, recipe(5))
    assert read_status(tmp_path / "run").changes == (change,)
    assert start_model(f"{tmp_path / 'run'}:g1").name == "model"


def test_figures_and_groups_of_a_replaced_training_are_not_shown(tmp_path: Path):
    rows = [
        {"stage": "g2", "step": step, "attempt": number, "time": 1.0, "reward/mean": number}
        for number, steps in ((0, 3), (1, 1))
        for step in range(1, steps + 1)
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (before,) = read_curves(file)
    assert before.superseded.steps == (1, 2, 3), "without knowing that it began anew"
    (now,) = read_curves(file, {"g2": 1})
    assert now.kept.steps == (1,)
    assert now.kept.values["reward/mean"] == (1.0,)
    assert now.superseded.steps == ()
    with Archive(tmp_path / "archive", 0) as archive:
        archive.append(
            make_group(group_id="g2/00000000", policy_version=PolicyVersion(attempt=0, step=5))
        )
    with Archive(tmp_path / "archive", 1) as archive:
        archive.append(
            make_group(group_id="g2/00000000", policy_version=PolicyVersion(attempt=1, step=9))
        )
    index = index_archive(tmp_path / "archive", ("g2",), "g2", {"g2": 1})
    assert index.training == {9: 1}
    assert index.num_training == 1


async def test_control_arms_count_no_group_of_a_replaced_training(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "run", tmp_path / "run")
    run_dir = RunDir.open(tmp_path / "run", recipe(5), resume=True, overwrite=False)
    samples = make_samples()
    with open_fakes(recipe(5), run_dir, samples, ("base-model", 0)) as (session, *_):
        run_dir.adopt(session.attempt)
        assert archived_cost(session, "g1", 0)["num_rollouts"] > 0
        assert archived_cost(session, "g2", 0)["num_rollouts"] == 0
    run_dir.close()


@pytest.mark.parametrize("moment", range(14))
def test_a_resume_killed_while_it_puts_results_aside_plans_the_same_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
):
    """Killed before its first rename, its second, and so on; then resumed."""
    shutil.copytree(finished / "run", tmp_path / "run")
    before = {name: done(tmp_path, name) for name in (*AFTER_G1, *NOT_AFTER_G1)}
    rename, left = Path.rename, [moment]

    def counted(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    run_dir = RunDir.open(tmp_path / "run", recipe(5), resume=True, overwrite=False)
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(Path, "rename", counted)
        run_dir.adopt(1)
    run_dir.close()
    again = RunDir.open(tmp_path / "run", recipe(5), resume=True, overwrite=False)
    assert again.plan.reopened == ("g1",)
    assert [again.result(name) for name in AFTER_G1] == [None] * 3
    again.adopt(1)
    assert [done(tmp_path, name) for name in AFTER_G1] == [None] * 3
    assert not any(again.checkpoints(name).exists() for name in AFTER_G1)
    assert {name: again.result(name) for name in NOT_AFTER_G1} == {
        name: before[name] for name in NOT_AFTER_G1
    }
    aside = tmp_path / "run/replaced/before-attempt-001"
    for name in AFTER_G1:
        assert json.loads((aside / f"stages/{name}/done.json").read_text()) == before[name]
    assert json.loads((aside / "run.json").read_text())["stages"][2]["num_steps"] == 3
    assert json.loads((again.path / "run.json").read_text())["stages"][2]["num_steps"] == 5
    again.close()
