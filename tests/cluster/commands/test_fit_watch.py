"""Watch mode from the command line, up to where a fit would begin. (Beside a run that trains:
tests/end_to_end/test_watch.py.)"""

import os
import re
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.fitting.watch_log import only_watcher
from tests.cluster.fitting.scripted_runs import ScriptedRun, recipe

QUIET = ("--poll-s", "0.1")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests keeps its priority and its cores."""
    monkeypatch.setattr(os, "nice", lambda more: more)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "m"], "--model is of a single fit"),
        (["--versions", "0.3"], "--versions is of a single fit"),
        (["--allow-foreign"], "--allow-foreign is of a single fit"),
        (["--last", "0"], "--last 0: expected 1 or more"),
        (["--num-cpus", "100000"], "--num-cpus 100000: this process may use"),
        (["--watch-stage", "grop"], "the run's GRPO stages are grpo"),
        (["--set", "learner.num_threds=1"], "num_threads"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
):
    run = ScriptedRun(tmp_path / "run")
    code = main(["fit", str(run.path), str(tmp_path / "out"), "--watch", *QUIET, *options])
    assert (code, words in capsys.readouterr().err) == (2, True)


def test_a_run_that_ended_without_a_better_version_ends_with_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = ScriptedRun(tmp_path / "run")
    run.finish()
    out = tmp_path / "out"
    assert main(["fit", str(run.path), str(out), "--watch", *QUIET]) == 0
    text = capsys.readouterr().err
    assert "watching grpo of" in text
    assert "the run has finished" in text
    assert "0 versions measured, 0 fitted" in text
    assert "no candidate was fitted" in text


def test_a_run_that_was_killed_is_named_and_the_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A version whose step is not saved is measured, said, and passed over."""
    config = recipe(
        grpo={"num_steps": 8, "groups_per_step": 2, "save_every": 8, "validate": {"every": 2}}
    )
    run = ScriptedRun(tmp_path / "run", config)
    run.validate(2, 4)
    run.die()
    assert main(["fit", str(run.path), str(tmp_path / "out"), "--watch", *QUIET]) == 2
    text = capsys.readouterr().err
    assert "grpo step 2 (version 0.3): val/accuracy 0.400 on 10 val clips" in text
    assert "no weights (step 2 is not saved" in text
    assert re.search(r"error: the run stopped: its process \d+ ended without a word", text)
    assert "give the same command again to go on" in text


def test_the_run_itself_is_no_place_for_candidates_and_a_second_watcher_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    assert main(["fit", str(run.path), str(run.path), "--watch", *QUIET]) == 2
    assert "is the run itself, which is only read" in capsys.readouterr().err
    out.mkdir()
    with only_watcher(out):
        assert main(["fit", str(run.path), str(out), "--watch", *QUIET]) == 2
    assert f"another watcher (process {os.getpid()})" in capsys.readouterr().err
