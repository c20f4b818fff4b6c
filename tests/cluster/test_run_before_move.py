"""Run directories that an earlier version of the code wrote (tests/data/run_before_move) are read,
reported on and resumed by this one."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig
from cluster.inputs.from_run import start_model
from cluster.inputs.samples import SampleSplits
from cluster.run import run_stages
from cluster.run_dir import RunDir
from cluster.session import Session
from cluster.status.run_status import read_status
from cluster.summary import summarise_run
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import NAMES, FakeLearner, FakeMetrics, make_samples, open_fakes
from wire.archive.archive import read_groups
from wire.config import validate
from wire.types import Sample, stable_seed

WRITTEN = Path(__file__).parents[1] / "data/run_before_move"
SUMMARY = json.loads((WRITTEN / "finished/summary.json").read_text())
KNOWN_SINCE = {"warnings": {}, "failed": None, "started_from": None, "classifier": None}
"""Keys of a summary that the runs before did not write."""
ACCURACIES = {row["name"]: row["accuracy"] for row in SUMMARY["stages"]}
CheckData = Callable[[SampleSplits], None]
CHECKPOINT_STEP, NUM_STEPS = 2, 4
FIRST_PLACE_AFTER_CHECKPOINT = 4


class Learner(FakeLearner):
    """A FakeLearner with features for the head."""

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[np.ndarray]:
        for row in rows:
            length, prompt = len(row.responses[0].token_ids), 1 + sum(row.prompt.token_ids) % 7
            yield np.array([[length, prompt]], dtype=float)


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
    assert {**summary, "versions": None} == {**SUMMARY, **KNOWN_SINCE, "versions": None}


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


def test_a_killed_run_goes_on_from_its_checkpoint_with_its_archived_groups(
    killed: Path, monkeypatch: pytest.MonkeyPatch
):
    archived = {
        group.group_id
        for group in read_groups(killed / "archive")
        if group.group_id.startswith("grpo/")
        and int(group.group_id.removeprefix("grpo/")) >= FIRST_PLACE_AFTER_CHECKPOINT
    }
    assert archived
    run_dir = open_again(killed)
    assert run_dir.changes == ()
    opened = fake_sessions(monkeypatch)
    config = recipe_of(killed)
    summary = asyncio.run(run_stages(config, run_dir, list(ACCURACIES)))
    run_dir.close()
    ((session, learner, metrics),) = opened
    assert session.attempt == 1
    lines = zip(metrics.lines, metrics.values, strict=True)
    steps = {step: values for (stage, step), values in lines if stage == "grpo"}
    assert list(steps) == list(range(CHECKPOINT_STEP + 1, NUM_STEPS + 1))
    assert learner.steps[0][0] == "coldstart++", "the weights of the checkpoint"
    assert 0 < steps[NUM_STEPS]["rollout/num_taken_up"] <= len(archived)
    assert {row["name"]: row["accuracy"] for row in summary["stages"]} == ACCURACIES


def fake_sessions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Session, Learner, FakeMetrics]]:
    """Let runs open sessions of fakes, which write and learn as those of the runs before did.
    Returns the sessions that will have been opened."""
    samples, opened = make_samples(), []

    @asynccontextmanager
    async def open_session(
        config: RunConfig, run_dir: RunDir, check: CheckData, model: Path, step: int, *, debug: bool
    ) -> AsyncIterator[Session]:
        weights = (model.parent.name, step)
        with open_fakes(config, run_dir, samples, weights, make_learner=Learner) as fakes:
            session, engines, learner, metrics = fakes
            engines.write = two_of_three
            opened.append((session, learner, metrics))
            yield session

    def bring_model(config: RunConfig, check: CheckData) -> RunConfig:
        check(SampleSplits(samples=samples))
        return config

    monkeypatch.setattr("cluster.run.open_session", open_session)
    monkeypatch.setattr("cluster.run.bring_model", bring_model)
    return opened


BROKEN = ("", '{"model": "m", "labels"', "[]", '{"epochs": 3}')


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_recipe_gives_a_line_in_ls_and_the_rest_of_the_list_goes_on(
    finished: Path, killed: Path, text: str, capsys: pytest.CaptureFixture[str]
):
    (killed / "run.json").write_text(text)
    assert main(["ls", str(finished.parent)]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "failed (run.json!)" in listed
    assert "is not a run's recipe" in listed
    assert "restore it from a copy" in listed
    assert "finished finished" in listed, "the other run and its state"
    assert main(["status", str(killed)]) == 0
    assert "is not a run's recipe" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("command", ["report", "compare", "plan", "run"])
def test_commands_that_need_a_broken_recipe_say_so_and_are_no_bug(
    killed: Path, tmp_path: Path, command: str, text: str, capsys: pytest.CaptureFixture[str]
):
    recipe = tmp_path / "recipe.toml"
    labels = "".join(f'[[labels]]\nname = "{name}"\n' for name in NAMES)
    recipe.write_text(f'model = "base-model"\n{labels}[data]\nmanifest = "m.jsonl"\n')
    (killed / "run.json").write_text(text)
    words = {
        "report": [str(killed)],
        "compare": [str(killed)],
        "plan": [str(recipe), "--measured", str(killed)],
        "run": [str(recipe), "--run-dir", str(killed), "--resume"],
    }[command]
    assert main([command, *words]) == 2
    said = capsys.readouterr().err
    assert "run.json is not a run's recipe" in said
    assert "restore it from a copy" in said
    assert "bug" not in said


def test_a_run_from_a_stage_of_a_finished_run_says_so_in_its_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = finished / "stages/grpo/model"
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("weights")
    values = json.loads((finished / "run.json").read_text())
    config = validate(RunConfig, values | {"model": str(start_model(f"{finished}:grpo"))}, "b")
    run_dir = RunDir.open(tmp_path / "b", config, resume=False, overwrite=False)
    fake_sessions(monkeypatch)
    summary = asyncio.run(run_stages(config, run_dir, ["base"]))
    run_dir.close()
    assert (summary["started_from"]["run"], summary["started_from"]["stage"]) == (
        str(finished),
        "grpo",
    )
    assert read_status(run_dir.path).started_from.startswith(f"{finished}:grpo")
