"""Watch mode beside a run that trains, both as a user starts them: real engines, real learner, real
fits."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from calibrate.classifier import load_classifier
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from learner.model.policy import Policy
from tests.end_to_end.runs import LABELS, ROOT, command, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(580)]

STAGES = """
[grpo.validate]
every = 1
before_training = false
[[stages]]
name = "taught"
kind = "sft"
epochs = 4
[[stages]]
name = "refined"
kind = "grpo"
"""


def start(log: Path, *words: str | Path) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as file:
        return subprocess.Popen(command(*words), cwd=ROOT, env=env, stdout=file, stderr=file)


def decisions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "watch.jsonl").read_text().splitlines()]


def test_a_run_is_followed_and_a_better_version_becomes_a_classifier(tmp_path: Path):
    make_demo_model(tmp_path / "model")
    manifest = make_demo_data(tmp_path / "data", train=16, traces=8, val=10, cal=6, test=6)
    recipe = write_recipe(tmp_path, tmp_path / "model", manifest, LABELS)
    recipe.write_text(recipe.read_text() + STAGES)
    run, out = tmp_path / "run", tmp_path / "out"
    training = start(tmp_path / "run.log", "run", recipe, "--run-dir", run)
    until = time.monotonic() + 120
    while not (run / "status.json").exists() and time.monotonic() < until:
        time.sleep(0.5)
    watcher = start(tmp_path / "watch.log", "fit", run, out, "--watch", "--poll-s", "1")
    assert training.wait(500) == 0, (tmp_path / "run.log").read_text()[-3000:]
    text = (tmp_path / "watch.log").read_text
    assert watcher.wait(300) == 0, text()[-3000:]
    assert "the run has finished" in text()

    rows = decisions(out)
    assert sorted(row["step"] for row in rows) == [1, 2, 3]
    fitted = [row for row in rows if row["outcome"] == "fitted"]
    assert fitted
    assert all(row["outcome"] in ("fitted", "superseded", "not better") for row in rows)
    best = load_classifier((out / "best").resolve())
    assert best.path.parent == out.resolve() / "candidates"
    assert best.description.policy_version == best.path.name
    splits = best.provenance.splits
    assert splits["test"].clips == splits["held_out"].clips == 0
    assert splits["val"].clips == rows[0]["num_clips"] > 0
    assert splits["learned"].traces > 0
    assert all(not one.attainable for one in best.calibration.sets)
    Policy.load(best.policy_dir, "auto")
    assert not list(out.glob(".work*"))
    assert not list(run.rglob("*.monitor"))
