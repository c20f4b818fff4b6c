"""Run directories that an earlier version of the code wrote (tests/data/run_before_move) are read,
reported on and resumed by this one."""

import asyncio
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from cluster.stages.calibration import run_calibration
from cluster.stages.grpo import run_grpo_stage
from cluster.stages.policy_versions import model_before
from cluster.summary import summarise_run
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import NAMES, FakeLearner, make_samples, open_fakes
from wire.archive import read_groups
from wire.config import validate
from wire.types import Sample, stable_seed

WRITTEN = Path(__file__).parents[1] / "data/run_before_move"
SUMMARY = json.loads((WRITTEN / "finished/summary.json").read_text())
ACCURACIES = {row["name"]: row["accuracy"] for row in SUMMARY["stages"]}
CHECKPOINT_STEP, NUM_STEPS = 2, 4
FIRST_PLACE_AFTER_CHECKPOINT = 4


class Learner(FakeLearner):
    """A FakeLearner with features for the head."""

    async def features(self, rows: Sequence[Row]) -> np.ndarray:
        lengths = [float(len(row.responses[0].token_ids)) for row in rows]
        prompts = [1.0 + sum(row.prompt.token_ids) % 7 for row in rows]
        return np.array(list(zip(lengths, prompts, strict=True)))


def two_of_three(weights: str, sample: Sample, index: int) -> str:
    """What the engines of the runs before wrote."""
    draw = stable_seed(weights, sample.id, index)
    label = sample.label if draw % 3 else NAMES[draw % 5]
    return f"<think>up {index}</think><answer>{label}</answer>"


def copy_of(name: str, path: Path) -> Path:
    """A copy of a run directory, with the model folders that git does not keep."""
    run = path / name
    shutil.copytree(WRITTEN / name, run)
    for stage in ("coldstart", *(("grpo", "calibrated") if name == "finished" else ())):
        (run / "stages" / stage / "model").mkdir()
    return run


def recipe_of(run: Path) -> RunConfig:
    return validate(RunConfig, json.loads((run / "run.json").read_text()), "run.json")


def open_again(run: Path) -> RunDir:
    return RunDir.open(run, recipe_of(run), resume=True, overwrite=False)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return copy_of("finished", tmp_path)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    return copy_of("killed", tmp_path)


def test_a_finished_run_is_summarised_as_before(finished: Path):
    run_dir = open_again(finished)
    summary = summarise_run(recipe_of(finished), run_dir)
    run_dir.close()
    assert run_dir.changes == ()
    assert {**summary, "versions": None} == {**SUMMARY, "versions": None}


def test_a_finished_run_has_a_report(finished: Path):
    assert main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    for name, accuracy in ACCURACIES.items():
        in_page = re.search(rf'"name":"{name}","text".*?"accuracy":([\d.]+)', page)
        assert in_page is not None, name
        assert float(in_page[1]) == pytest.approx(accuracy)
    traces = re.search(r'"accuracy":([\d.]+),"accuracy_per_label"', page)
    assert traces is not None
    assert float(traces[1]) == SUMMARY["calibration_traces"]["accuracy"]


def test_a_finished_run_is_compared(finished: Path, tmp_path: Path):
    figures = tmp_path / "figures.json"
    assert main(["compare", str(finished), "--json", str(figures)]) == 0
    arms = json.loads(figures.read_text())["arms"]
    head = {"head": SUMMARY["head"]["accuracy"]}
    assert {arm["name"]: arm["evaluation"]["accuracy"] for arm in arms} == ACCURACIES | head


def test_a_finished_run_has_a_status(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(finished), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert main(["ls", str(finished.parent), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    for told in (status, listed):
        assert told["state"] == "finished"
        assert (told["writer"]["host"], told["writer"]["attempt"]) == ("node-1", 0)
        assert {stage["name"]: stage["accuracy"] for stage in told["finished"]} == ACCURACIES


def test_a_killed_run_has_a_status(killed: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(killed), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["step_stage"], status["step"]) == ("failed", "grpo", 3)
    assert (status["piece"]["done"], status["piece"]["total"]) == (3, NUM_STEPS)
    assert status["resume"] == "deepintuit run my.toml --resume"


def test_a_killed_run_goes_on_from_its_checkpoint_with_its_archived_groups(killed: Path):
    archived = {
        group.group_id
        for group in read_groups(killed / "archive")
        if group.group_id.startswith("grpo/")
        and int(group.group_id.removeprefix("grpo/")) >= FIRST_PLACE_AFTER_CHECKPOINT
    }
    steps, first_weights = asyncio.run(resume(killed))
    assert list(steps) == list(range(CHECKPOINT_STEP + 1, NUM_STEPS + 1))
    assert first_weights == "coldstart++"
    assert archived
    assert 0 < steps[NUM_STEPS]["rollout/num_taken_up"] <= len(archived)
    run_dir = open_again(killed)
    summary = summarise_run(recipe_of(killed), run_dir)
    run_dir.close()
    assert {row["name"]: row["accuracy"] for row in summary["stages"]} == ACCURACIES


def finish(run_dir: RunDir, stage: str, result: dict[str, Any]) -> None:
    run_dir.finish(stage, result | {"seconds": 0.1, "peak_memory_gb": 1.0})


async def resume(run: Path) -> tuple[dict[int, dict[str, float]], str]:
    """Finish GRPO and calibration. Returns GRPO's figures by step, and the weights of its first
    update."""
    config, run_dir = recipe_of(run), open_again(run)
    assert run_dir.changes == ()
    start = model_before(config, run_dir, "grpo")
    weights = (start.model_dir.parent.name, start.step)
    with open_fakes(config, run_dir, make_samples(), weights, make_learner=Learner) as fakes:
        session, engines, learner, metrics = fakes
        engines.write = two_of_three
        assert session.attempt == 1
        finish(run_dir, "grpo", await run_grpo_stage(session, start.model_dir))
        last = model_before(config, run_dir, "calibrated")
        await session.ensure_engine_weights(*last)
        finish(run_dir, "calibrated", await run_calibration(session, last.model_dir))
    run_dir.close()
    lines = zip(metrics.lines, metrics.values, strict=True)
    steps = {step: values for (stage, step), values in lines if stage == "grpo"}
    return steps, learner.steps[0][0]
