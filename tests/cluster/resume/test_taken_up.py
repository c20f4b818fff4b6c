"""Evaluation, calibration and own traces killed at any moment and resumed; engines and learner are
fakes whose weights are a hash of all that they were trained on."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import RunConfig
from cluster.controls.arms import arm_run
from cluster.resume.archived_groups import Renumbered
from cluster.resume.taken_up import SameWeights, find_written, same_weights
from cluster.run import run_each
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import (
    FakeMemory,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    write_model,
)
from tests.cluster.stages.chain_fakes import (
    CALIBRATE,
    Attempt,
    Killed,
    result,
    run_chain,
    two_of_three,
)
from tests.groups import make_group, make_trace
from wire.archive.archive import Archive, read_groups
from wire.types import PolicyVersion, Sample

CHAIN: list[dict[str, Any]] = [
    {"name": "own", "kind": "sft", "data": "own", "epochs": 2, "from": "base"},
    {"name": "verdict", "kind": "calibrate", "from": "own"},
    {"name": "unseen", "kind": "evaluate", "view": "blank"},
]
SAMPLES = make_samples(cal=20, test=12)
IN_FLIGHT = 2
NUM_OWN, NUM_TEST, NUM_CAL, NUM_HELD_OUT, NUM_VAL = 6, 12, 20, 5, 2
NUM_CALIBRATION = NUM_CAL + NUM_VAL + NUM_TEST
NUM_GROUPS = NUM_OWN + NUM_TEST + NUM_CALIBRATION + NUM_TEST
NUM_TRACES = 2 * NUM_OWN + 2 * NUM_TEST + NUM_CALIBRATION + (NUM_CAL - NUM_HELD_OUT)


def recipe(**changes: Any) -> RunConfig:
    rollout = {"group_size": 2, "dtype": "float32", "max_concurrency": 1}
    calibrate = {**CALIBRATE, "candidates": ["policy", "verdict", "head"]}  # no further traces
    values = {"stages": CHAIN, "calibrate": calibrate, "rollout": rollout} | changes
    return make_config(**values)


def killed_after(num_traces: int) -> Callable[[str, Sample, int], str]:
    left = num_traces

    def write(weights: str, sample: Sample, index: int) -> str:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return two_of_three(weights, sample, index)

    return write


async def attempt(
    path: Path, config: RunConfig, *, resume: bool, **how: Any
) -> tuple[RunDir, Attempt]:
    run_dir = RunDir.open(path / "run", config, resume=resume, overwrite=False)
    try:
        return run_dir, await run_chain(run_dir, config, samples=SAMPLES, **how)
    finally:
        run_dir.close()


def results_of(run_dir: RunDir) -> dict[str, Any]:
    """Predictions, weights and figures of all stages, without what measures time."""
    left = {}
    for name in ("own", "verdict", "unseen"):
        done = result(run_dir, name)
        left[name] = {k: v for k, v in done.items() if k not in ("seconds", "num_taken_up")}
        left[name]["inference"] = done["inference"] | {"seconds": None}
    for name in ("version", "policy_version"):  # which attempt it was that served the policy
        del left["verdict"]["classifier"][name]
    for file in sorted(run_dir.path.glob("predictions/*.parquet")):
        left[file.name] = file.read_bytes()
    for name in ("own", "verdict"):
        left[f"{name} weights"] = (run_dir.model(name) / "weights").read_text()
    return left


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_dir, one = asyncio.run(attempt(folder, recipe(), resume=False))
    assert len(one.engines.wrote) == NUM_GROUPS
    return results_of(run_dir)


@pytest.mark.parametrize("moment", [*range(3, NUM_TRACES, 9), NUM_TRACES - 1])
async def test_a_run_killed_at_any_trace_writes_only_those_in_flight_again(
    tmp_path: Path, whole: dict[str, Any], moment: int
):
    _, first = await attempt(
        tmp_path, recipe(), resume=False, write=killed_after(moment), updates=10**9
    )
    run_dir, second = await attempt(tmp_path, recipe(), resume=True)
    again = len(first.engines.wrote) + len(second.engines.wrote) - NUM_GROUPS
    assert 0 < again <= IN_FLIGHT
    assert results_of(run_dir) == whole
    ids = [group.group_id for group in read_groups(run_dir.archive)]
    assert len(set(ids)) == len(ids) == NUM_GROUPS, "no group is in the archive twice"


@pytest.mark.parametrize("updates", [8, 12, 20, 23])
async def test_a_verdict_killed_in_its_training_goes_on_with_the_same_traces(
    tmp_path: Path, whole: dict[str, Any], updates: int
):
    _, first = await attempt(tmp_path, recipe(), resume=False, updates=updates)
    assert not first.summary
    run_dir, second = await attempt(tmp_path, recipe(), resume=True)
    assert len(first.engines.wrote) + len(second.engines.wrote) == NUM_GROUPS
    assert results_of(run_dir) == whole
    assert result(run_dir, "verdict")["num_taken_up"] == NUM_CALIBRATION


async def test_a_verdict_is_validated_on_the_same_traces_after_a_kill(tmp_path: Path):
    write_model(tmp_path / "base-model", "base-model")
    config = recipe(
        model=str(tmp_path / "base-model"),
        validate={"every": 5},
        stages=[{**CHAIN[1], "from": "base"}],
    )
    _, first = await attempt(tmp_path, config, resume=False, updates=12)
    assert len(first.engines.wrote) == NUM_CALIBRATION, "validation writes none of its own"
    _, second = await attempt(tmp_path, config, resume=True)
    assert second.summary
    assert not second.engines.wrote


async def test_traces_of_weights_that_are_trained_anew_are_written_again(
    tmp_path: Path, whole: dict[str, Any]
):
    """Killed as it measures what it has trained, and its last checkpoint is then damaged."""
    moment = 2 * NUM_OWN + 5
    run_dir, _ = await attempt(
        tmp_path, recipe(), resume=False, write=killed_after(moment), updates=10**9
    )
    newest = max(run_dir.checkpoints("own").glob("step-*"))
    (newest / "weights").unlink()
    run_dir, second = await attempt(tmp_path, recipe(), resume=True)
    assert len(second.engines.wrote) == NUM_GROUPS - NUM_OWN
    assert "num_taken_up" not in result(run_dir, "own")
    assert results_of(run_dir) == whole


async def test_traces_that_answer_other_prompts_are_not_taken_up(tmp_path: Path):
    run_dir, _ = await attempt(tmp_path, recipe(), resume=False, updates=20)
    file = run_dir.path / "attempts.jsonl"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "prompts": {**record["prompts"], "trace": "0"}}) + "\n")
    _, second = await attempt(tmp_path, recipe(), resume=True)
    assert len(second.engines.wrote) == NUM_CALIBRATION + NUM_TEST


async def test_an_attempt_that_knew_fewer_texts_asked_with_those_as_now(tmp_path: Path):
    run_dir, _ = await attempt(tmp_path, recipe(), resume=False, updates=20)
    file = run_dir.path / "attempts.jsonl"
    record = json.loads(file.read_text())
    known = {name: record["prompts"][name] for name in ("trace", "verdict", "label")}
    file.write_text(json.dumps({**record, "prompts": known}) + "\n")
    _, second = await attempt(tmp_path, recipe(), resume=True)
    assert len(second.engines.wrote) == NUM_TEST, "of the last stage alone"


async def test_a_vote_of_another_number_of_traces_is_written_anew(tmp_path: Path):
    for votes, expected in ((3, 12), (3, 0), (4, 12)):
        config = make_config(controls={"num_votes": votes})
        if votes == 3 and expected:
            run_dir = make_run_dir(tmp_path, config, *config.chain.names)
        start = ("grpo", config.chain.last_step("grpo"))
        with open_fakes(config, run_dir, SAMPLES, start) as (session, engines, *_):
            memory: Any = FakeMemory()
            await run_each(session, ["vote"], arm_run, memory)
        assert len(engines.wrote) == expected
        assert run_dir.result("vote")["cost"]["num_rollouts"] == votes * 12
        (run_dir.path / "stages/vote/done.json").unlink()
    run_dir.close()


def test_of_each_group_the_newest_counts_and_only_a_whole_one(tmp_path: Path):
    old, now = PolicyVersion(attempt=0, step=4), PolicyVersion(attempt=1, step=4)
    whole, unscored = [make_trace(), make_trace()], [make_trace(), make_trace(None)]
    by_name = {
        "whole": (old, whole),
        "unscored": (old, unscored),
        "unreadable": (old, []),
        "too-few": (old, whole[:1]),
        "other-weights": (PolicyVersion(attempt=0, step=3), whole),
        "written-again": (old, whole),
    }
    with Archive(tmp_path, 0) as archive:
        for name, (version, traces) in by_name.items():
            archive.append(make_group(*traces, group_id=f"vote/{name}", policy_version=version))
        archive.append(make_group(*whole, group_id="vote2/whole", policy_version=old))
    with Archive(tmp_path, 1) as archive:
        archive.append(make_group(*unscored, group_id="vote/written-again", policy_version=now))
        archive.compact(4)
    weights = SameWeights(now=PolicyVersion(attempt=2, step=4), attempts=frozenset({0, 1}))
    wanted = {f"vote/{name}" for name in (*by_name, "unknown")}
    archived = find_written(tmp_path, "vote", wanted, weights, 2)
    taken = {name: asyncio.run(archived.take(name)) for name in sorted(wanted)}
    assert [name for name, group in taken.items() if group] == ["vote/whole"]
    assert archived.num_taken == 1
    assert len(find_written(tmp_path, "vote", {"vote/unscored"}, weights, 2)) == 0


def test_versions_of_earlier_attempts_are_compared_by_the_weights_they_named(tmp_path: Path):
    config = make_config()
    run_dir = make_run_dir(tmp_path, config, "base", "coldstart", "grpo")
    with open_fakes(config, run_dir, SAMPLES, ("grpo", 4)):
        pass
    now = PolicyVersion(attempt=1, step=4)
    weights = same_weights(config, run_dir, "calibrated", now, trained=False)
    assert weights.attempts == {0}
    for version, expected in (((1, 4), True), ((0, 4), True), ((0, 3), False), ((2, 4), False)):
        assert (PolicyVersion(attempt=version[0], step=version[1]) in weights) == expected
    moved = replace(weights, renumbered=(Renumbered(before_attempt=1, first_step=2),))
    assert PolicyVersion(attempt=0, step=2) in moved
    assert PolicyVersion(attempt=0, step=4) not in moved
    assert "0.4" not in weights
    run_dir.close()
