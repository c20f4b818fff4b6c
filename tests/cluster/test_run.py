import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.config.recipe import RunConfig
from cluster.run import run_stages
from cluster.run_dir import RunDir
from cluster.stages.policy_versions import model_before
from cluster.summary import print_summary, summarise_run
from tests.calibrate.classifiers import measured_calibration, published_result
from tests.cluster.session_fakes import FIRST_STEP
from wire.config import validate
from wire.errors import ConfigError, LearnsNothing

MEASURED = {
    **dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "macro_f1"), 0.5),
    **dict.fromkeys(("balanced_accuracy", "ece", "unparsed_frac"), 0.5),
    **{"brier": None, "num_samples": 4, "majority_baseline": 0.5, "best_constant": 0.5},
}


def make(path: Path, *finished: str) -> tuple[RunConfig, RunDir]:
    values = {
        "model": "base-model",
        "labels": [{"name": "a"}, {"name": "b"}],
        "data": {"manifest": "m.jsonl"},
        "grpo": {"num_steps": 7},
    }
    config = validate(RunConfig, values, "recipe")
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    for stage in finished:
        if stage != "base":
            run_dir.model(stage).mkdir(parents=True)
        run_dir.finish(stage, {"seconds": 1.0})
    return config, run_dir


def test_each_stage_starts_from_the_last_weights_before_it(tmp_path: Path):
    config, run_dir = make(tmp_path, "base", "coldstart", "grpo")
    assert model_before(config, run_dir, "base") == (Path("base-model"), 0)
    assert model_before(config, run_dir, "coldstart") == (Path("base-model"), 0)
    assert model_before(config, run_dir, "grpo") == (run_dir.model("coldstart"), FIRST_STEP)
    assert model_before(config, run_dir, "calibrated") == (run_dir.model("grpo"), FIRST_STEP + 7)


def test_a_stage_without_a_stage_before_it_starts_from_the_recipes_model(tmp_path: Path):
    config, run_dir = make(tmp_path)
    assert model_before(config, run_dir, "grpo") == (Path("base-model"), 0)


def test_a_run_without_cold_start_trains_the_recipes_model(tmp_path: Path):
    config, _ = make(tmp_path)
    assert config.chain.names == ("base", "coldstart", "grpo", "calibrated")
    values = config.model_dump(mode="json") | {"coldstart": {"epochs": 0}}
    without = validate(RunConfig, values, "recipe")
    assert without.chain.names == ("base", "grpo", "calibrated")
    done = RunDir.open(tmp_path / "other", without, resume=False, overwrite=False)
    done.finish("base", {"seconds": 1.0})
    assert model_before(without, done, "grpo") == (Path("base-model"), 0)


async def test_a_stage_is_not_run_again_under_results_that_came_from_it(tmp_path: Path):
    config, run_dir = make(tmp_path, "coldstart", "calibrated")
    with pytest.raises(ConfigError, match=r"calibrated in .* came from the weights before grpo"):
        await run_stages(config, run_dir, ["grpo"])


def test_a_run_of_an_earlier_version_is_still_summarised_and_printed(tmp_path: Path):
    config, run_dir = make(tmp_path)
    run_dir.finish("base", {"evaluation": MEASURED, "seconds": 1.0, "peak_memory_gb": 1.0})
    new = MEASURED | {"selective_accuracy": 0.75, "aurc": 0.25}
    run_dir.finish("grpo", {"evaluation": new, "seconds": 1.0, "peak_memory_gb": 1.0})
    summary = summarise_run(config, run_dir)
    assert [row["selective_accuracy"] for row in summary["stages"]] == [None, 0.75]
    assert [row["aurc"] for row in summary["stages"]] == [None, 0.25]
    print_summary(summary, run_dir.path)


def test_the_published_classifier_is_summarised_with_what_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, run_dir = make(tmp_path)
    result = {"verdict": MEASURED, "classifier": published_result()}
    run_dir.finish("calibrated", {**result, "seconds": 1.0, "peak_memory_gb": 1.0})
    summary = summarise_run(config, run_dir)["classifier"]
    figures = measured_calibration().figures[0]
    assert summary["method"] == "policy+verdict"
    assert (summary["ece_before"], summary["ece_after"]) == (figures.before.ece, figures.after.ece)
    assert [row["clips"] for row in summary["coverage"]] == 2 * ["all", "new looks", "old looks"]
    assert [row["clips"] for row in summary["automatic"]] == ["all", "new looks", "old looks"]
    assert summary["automatic"][1]["measured_error"] > summary["automatic"][1]["promised_error"]
    assert summary["candidates"][0]["name"] == "policy+verdict"
    print_summary(summarise_run(config, run_dir), run_dir.path)
    printed = capsys.readouterr().out
    assert "classifier: policy+verdict" in printed
    assert "sets promised to hold the true label of 90%" in printed


async def test_a_run_that_ends_with_an_error_has_a_summary_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, run_dir = make(tmp_path)
    run_dir.finish("base", {"evaluation": MEASURED, "seconds": 1.0, "peak_memory_gb": 1.0})
    figures = {"learning/num_updates": 4, "learning/skipped": 3, "learning/skipped_in_a_row": 3}
    line = {"stage": "coldstart", "step": 4, "attempt": 0, **figures}
    run_dir.metrics.write_text(json.dumps(line) + "\n")

    @asynccontextmanager
    async def open_session(*_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(attempt=0)

    async def learn_nothing(*_: object) -> None:
        raise ExceptionGroup("loops", [LearnsNothing("coldstart learns nothing: 3 of 4 updates")])

    monkeypatch.setattr("cluster.run.open_session", open_session)
    monkeypatch.setattr("cluster.run.bring_model", lambda config, check: config)
    monkeypatch.setattr("cluster.run.run_each", learn_nothing)
    with pytest.raises(ExceptionGroup, match="loops"):
        await run_stages(config, run_dir, ["coldstart"])
    summary = json.loads(run_dir.summary.read_text())
    assert summary["failed"] == "coldstart learns nothing: 3 of 4 updates"
    assert [row["name"] for row in summary["stages"]] == ["base"]
    assert "3 of 4 updates were left out" in summary["warnings"]["coldstart"][0]
