"""kill -9 at moments of a GRPO step, with the real vLLM, DeepSpeed and Ray: a deterministic run
that was killed again and again ends with the bits of one that was not."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.killed_run import MOMENTS
from tests.end_to_end.runs import LABELS, ROOT, metrics, write_recipe
from wire.archive.archive import read_groups
from wire.types import Purpose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]

STEPS, GROUPS = 5, 4
SETTINGS = (
    f"grpo.num_steps={STEPS}",
    "grpo.save_every=2",
    "grpo.max_staleness=1",
    "coldstart.save_every=3",
)
OF_A_REWARD_S_WORKERS = ("/latency_", "/num_started")
CHECKS = ("shared_prefix/self_check", "shared_prefix/self_check_float32")
OF_ATTEMPTS = ("attempt", "time", "rollout/num_taken_up", *CHECKS)
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(len(solution_str) % 3)
"""
"""A tiny model is always wrong, and what is always wrong teaches nothing."""


def start(
    folder: Path, verb: str, out: Path, *more: str, kill: str = "", resume: bool = True
) -> subprocess.CompletedProcess[str]:
    """One attempt, to its end; ``kill`` (killed_run.py) says what ends it."""
    program = ["tests.end_to_end.killed_run", kill] if kill else ["cluster.cli"]
    words = [sys.executable, "-m", *program, verb, str(folder / "recipe.toml")]
    words += ["--run-dir", str(out), *(["--resume"] if resume else [])]
    reward = f"reward.terms=[{{function='{folder / 'lengths.py'}:compute_score'}}]"
    words += [word for setting in (*SETTINGS, reward, *more) for word in ("--set", setting)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    said = done.stdout + done.stderr
    if not kill:
        assert done.returncode == 0, said[-3000:]
    elif f"KILLED {kill.rpartition(':')[0].replace(':', ' ')}" in said:
        assert done.returncode != 0, "it went on as if nothing had been killed"
        pids = said.partition("KILLED ")[2].partition("\n")[0].partition(": ")[2]
        wait_until_gone([int(pid) for pid in pids.split()])
    else:
        assert done.returncode == 0, said[-3000:]  # the moment did not come any more
    return done


def wait_until_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 120
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes of a killed run go on"
        time.sleep(0.5)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_folder(folder: Path) -> Path:
    """Model, data, recipe, and a run whose cold start is done."""
    make_demo_model(folder / "model")
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=1, test=2)
    write_recipe(folder, folder / "model", manifest, LABELS)
    (folder / "lengths.py").write_text(REWARD)
    start(folder, "coldstart", folder / "cold", "deterministic=true", resume=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A deterministic run that nothing interrupted."""
    return run_whole(folder)


def run_whole(folder: Path) -> Path:
    shutil.copytree(folder / "cold", folder / "whole")
    start(folder, "grpo", folder / "whole", "deterministic=true")
    return folder / "whole"


def steps(out: Path) -> dict[int, dict[str, Any]]:
    """The last line of each step, without what measures time, caches or an attempt."""
    left_out = ("timing_s/", "perf/", "cache/", "weights/", "video/decoded_by", *OF_ATTEMPTS)
    return {
        row["step"]: {
            name: value
            for name, value in row.items()
            if not name.startswith(left_out) and not any(x in name for x in OF_A_REWARD_S_WORKERS)
        }
        for row in metrics(out, "grpo")
    }


def weights(out: Path) -> dict[str, bytes]:
    """Of the model that the stage ended with."""
    (file,) = (out / "stages/grpo/model").glob("*.safetensors")
    return {name: tensor.tobytes() for name, tensor in load_file(file).items()}


def check_same(out: Path, whole: Path) -> None:
    assert steps(out) == steps(whole)
    assert sorted(steps(out)) == list(range(1, STEPS + 1))
    assert weights(out) == weights(whole)


def check_lost_nothing(out: Path) -> None:
    """Every place was trained once, on a group within the bound, by archive and metrics alone."""
    lines = {row["step"]: row for row in metrics(out, "grpo")}
    groups = list(read_groups(out / "archive", Purpose.TRAIN))
    start = 0
    for step in range(1, STEPS + 1):
        end, by = int(lines[step]["rollout/next_place"]), lines[step]["attempt"]
        assert end == start + GROUPS
        for place in range(start, end):
            own = [g for g in groups if g.group_id == f"grpo/{place:08d}"]
            newest = max(
                (g.policy_version for g in own if g.policy_version.attempt <= by), default=None
            )
            assert newest is not None, f"place {place} of step {step} is not in the archive"
            assert 0 <= step - newest.step <= 1
        start = end


def test_an_uninterrupted_run_learns_and_repeats(folder: Path, whole: Path):
    """Else the other tests here compare nothing."""
    rows = steps(whole)
    assert any(row["reward/std"] > 0 for row in rows.values())
    cold = load_file(next((whole / "stages/coldstart/model").glob("*.safetensors")))
    assert {name: t.tobytes() for name, t in cold.items()} != weights(whole)
    again = folder / "again"
    shutil.copytree(folder / "cold", again)
    start(folder, "grpo", again, "deterministic=true")
    check_same(again, whole)


KILLS = (
    "driver:after-append:3",
    "driver:in-update:3",
    "driver:before-append:6",
    "driver:in-handoff:2",
    "learner:in-update:2",
    "driver:in-save:1",
    "engine:in-update:1",
    "rollout:before-compact:1",
    "driver:before-metrics:1",
)


def test_a_run_killed_at_every_moment_ends_with_the_same_bits(folder: Path, whole: Path):
    out = folder / "killed"
    shutil.copytree(folder / "cold", out)
    for kill in KILLS:
        start(folder, "grpo", out, "deterministic=true", kill=kill)
    if not (out / "stages/grpo/done.json").exists():
        start(folder, "grpo", out, "deterministic=true")
    check_same(out, whole)
    check_lost_nothing(out)


def test_without_determinism_no_group_is_lost_and_none_trained_twice(folder: Path):
    out = folder / "free"
    shutil.copytree(folder / "cold", out)
    for kill in ("driver:after-append:6", "learner:in-update:4", "driver:in-handoff:2"):
        start(folder, "grpo", out, kill=kill)
    start(folder, "grpo", out)
    check_lost_nothing(out)


def test_another_number_of_ranks_goes_on(folder: Path):
    out = folder / "ranks"
    shutil.copytree(folder / "cold", out)
    start(folder, "grpo", out, kill="driver:in-update:6")
    start(folder, "grpo", out, "learner.num_ranks=2", "learner.zero_stage=2")
    check_lost_nothing(out)


def test_a_cold_start_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(folder: Path):
    """Its checkpoint after update 3 of 4 stands in for a kill after it."""
    out = folder / "cold_again"
    shutil.copytree(folder / "cold", out)
    (out / "stages/coldstart/done.json").unlink()
    start(folder, "coldstart", out, "deterministic=true")
    first = load_file(next((folder / "cold/stages/coldstart/model").glob("*.safetensors")))
    again = load_file(next((out / "stages/coldstart/model").glob("*.safetensors")))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)


def test_a_calibration_killed_among_its_traces_and_in_its_training_ends_with_the_same_bits(
    folder: Path,
):
    start_of, how = folder / "to calibrate", ("deterministic=true", "calibrate.split='train'")
    start(folder, "coldstart", start_of, *how, resume=False)
    at_once, out = folder / "calibrated at once", folder / "calibrated"
    for copy in (at_once, out):
        shutil.copytree(start_of, copy)
    start(folder, "calibrate", at_once, *how)
    start(folder, "calibrate", out, *how, kill="driver:after-measured:15")
    start(folder, "calibrate", out, *how, kill="driver:in-supervised:3")
    start(folder, "calibrate", out, *how)
    groups = [g for g in read_groups(out / "archive") if g.group_id.startswith("calibrated/")]
    assert len({group.group_id for group in groups}) == len(groups), "none was written twice"
    assert len({group.policy_version.attempt for group in groups}) == 2
    done = json.loads((out / "stages/calibrated/done.json").read_text())
    assert done["num_taken_up"] == len(groups)
    for name in ("calibrated", "head"):
        found, expected = ((run / f"predictions/{name}.parquet") for run in (out, at_once))
        assert found.read_bytes() == expected.read_bytes()
    (model,) = (out / "stages/calibrated/model").glob("*.safetensors")
    assert model.read_bytes() == (at_once / "stages/calibrated/model" / model.name).read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments(folder: Path, whole: Path, seed: int):
    draw, out = random.Random(seed), folder / f"random-{seed}"
    shutil.copytree(folder / "cold", out)
    while not (out / "stages/grpo/done.json").exists():
        who = draw.choice(("driver", "driver", "learner", "rollout", "engine"))
        kill = f"{who}:{draw.choice(MOMENTS)}:{draw.randint(1, 8)}"
        start(folder, "grpo", out, "deterministic=true", kill=kill)
    check_same(out, whole)
    assert json.loads((out / "summary.json").read_text())


def test_a_finished_run_made_longer_ends_with_the_bits_of_one_that_was_longer_at_once(folder: Path):
    """Also under a new save interval: what it changes is said, and holds from the join on."""
    at_once, out = folder / "six at once", folder / "three, then six"
    how = ("deterministic=true", "grpo.max_staleness=0")
    start(folder, "grpo", at_once, *how, "grpo.num_steps=6", resume=False)
    start(folder, "grpo", out, *how, "grpo.num_steps=3", resume=False)
    short = weights(out)
    resumed = start(folder, "grpo", out, *how, "grpo.num_steps=6", "grpo.save_every=1")
    said = resumed.stdout + resumed.stderr
    assert "changed: grpo.num_steps = 6 (was 3), grpo goes on after 3 steps" in said
    assert "changed: grpo.save_every = 1 (was 2), from the next checkpoint on" in said
    assert [row["attempt"] for row in metrics(out, "grpo")] == [0, 0, 0, 1, 1, 1]
    assert sorted(steps(out)) == list(range(1, 7))
    assert steps(out) == steps(at_once)
    assert weights(out) == weights(at_once) != short
    done = json.loads((out / "stages/grpo/done.json").read_text())
    assert (done["length"], done["last_step"]) == (6, 6)
    versions = {g.group_id: g.policy_version for g in read_groups(out / "archive", Purpose.TRAIN)}
    assert len(versions) == 6 * GROUPS, "no place was written twice"
    by_step = [(versions[f"grpo/{place:08d}"].attempt, place // GROUPS) for place in range(24)]
    assert by_step == [(0, step) if step < 3 else (1, step) for _, step in by_step]
