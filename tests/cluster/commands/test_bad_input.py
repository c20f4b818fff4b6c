"""Every likely mistake ends at once with a named error, exit status 2, and no engine started."""

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cluster.session
from cluster.cli import main
from cluster.config.recipe import read_recipe
from tests.cluster.commands.mistakes import BAD_ROWS, BAD_SETTINGS, LACKING_DATA, Rows, drop_traces


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch):
    """Reaching the pool of engines fails the test. (Placement is checked before, in a real Ray.)"""

    def refuse(*_: object) -> None:
        raise AssertionError("an engine was about to start")

    monkeypatch.setattr(cluster.session, "RolloutPool", refuse)


def run(recipe: Path, *settings: str) -> int:
    overrides = [part for setting in settings for part in ("--set", setting)]
    return main(["run", str(recipe), "--run-dir", str(recipe.parent / "run"), *overrides])


@pytest.mark.parametrize(("spoil", "message"), BAD_ROWS)
def test_a_bad_manifest_is_named(
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Rows], None],
    message: str,
):
    assert run(recipe(spoil)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert re.search(message, said)
    assert "Traceback" not in said


def test_an_unreadable_clip_is_named_where_none_is_allowed(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all")

    def spoil(rows: Rows) -> None:
        rows[0]["video"] = str(broken)

    assert run(recipe(spoil), "data.max_quarantine_frac=0") == 2
    assert re.search(
        "1 clips cannot be used, data.max_quarantine_frac allows 0.*broken.mp4",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(("setting", "message"), BAD_SETTINGS)
def test_a_bad_setting_is_named(
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    setting: str,
    message: str,
):
    assert run(recipe(), setting) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_another_kind_is_refused_with_the_kinds_that_can_be_trained(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    assert run(recipe(), f"model={tmp_path / 'other'}") == 2
    said = capsys.readouterr().err
    assert "'qwen3_vl_moe'" in said
    assert "use one of: qwen2_vl, qwen2_5_vl, qwen3_vl" in said


def test_a_missing_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path / "nothing.toml") == 2
    assert "nothing.toml" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_too_few_cpus_are_said_at_once(recipe: Callable[..., Path]):
    """In a process of its own: it starts, and ends, a Ray of its own."""
    path = recipe()
    command = [sys.executable, "-m", "cluster.cli", "run", str(path)]
    command += ["--run-dir", str(path.parent / "run"), "--set", "rollout.num_cpus=4000"]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3]
    )
    assert found.returncode == 2
    assert "need 4000.5 CPUs" in found.stderr


def test_help_answers_within_a_second():
    """Of a processor: beside other work it takes longer."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cluster.cli", "--help"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[3])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize(("change", "message"), LACKING_DATA)
def test_data_that_a_later_stage_needs_is_missed_at_once(
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Rows], None],
    message: str,
):
    assert run(recipe(change)) == 2
    assert message in capsys.readouterr().err


def test_a_cold_start_of_no_epochs_is_refused(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    path = recipe()
    words = ("--run-dir", str(path.parent / "run"), "--set", "coldstart.epochs=0")
    assert main(["coldstart", str(path), *words]) == 2
    assert "leaves the cold start out" in capsys.readouterr().err


def controls(recipe: Path, *words: str) -> int:
    return main(["controls", str(recipe), "--run-dir", str(recipe.parent / "run"), *words])


def test_control_arms_without_a_run_are_refused(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    assert controls(recipe()) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_an_unknown_control_arm_is_refused_with_the_known_ones(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    assert controls(recipe(), "--only", "votes") == 2
    said = capsys.readouterr().err
    assert "votes" in said
    assert "policy_probability" in said


def test_control_arms_are_refused_before_an_engine_starts_if_data_is_missing(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    path = recipe(drop_traces)
    run_dir = path.parent / "run"
    (run_dir / "archive").mkdir(parents=True)
    assert controls(path, "--only", "verdict_teacher") == 2
    assert "holds no run" in capsys.readouterr().err
    (run_dir / "run.json").write_text(read_recipe(path, []).model_dump_json())
    assert controls(path, "--only", "verdict_teacher") == 2
    assert "needs the model that stage grpo leaves" in capsys.readouterr().err
    (run_dir / "stages/grpo/model").mkdir(parents=True)
    (run_dir / "stages/grpo/done.json").write_text("{}")
    assert controls(path, "--only", "verdict_teacher") == 2
    assert "5 of 5 samples with split='cal' have none" in capsys.readouterr().err
