"""A command's work in a run directory: heartbeat, summary, and the directory closed at the end."""

import argparse
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.base import Run, resume_command, run_in_directory
from cluster.run_dir import RunDir
from cluster.run_files import is_locked
from cluster.status.heartbeat import State, read_heartbeat
from cluster.summary import summarise_run
from tests.cluster.session_fakes import make_config, make_run_dir

OPTIONS = argparse.Namespace(typed=["run", "a.toml"])


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run_dir(tmp_path, make_config(), "base")


def test_the_work_has_a_heartbeat_and_its_summary_is_printed(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
):
    seen: list[Any] = []

    async def work() -> dict[str, Any]:
        seen.append(read_heartbeat(run_dir.path))
        return summarise_run(make_config(), run_dir)

    def prepare() -> Run:
        seen.append(read_heartbeat(run_dir.path))
        return work

    run_in_directory(OPTIONS, run_dir, ("base", "grpo"), prepare)
    before, during = seen
    assert before is None
    assert (during.state, during.work) == (State.RUNNING, ("base", "grpo"))
    assert during.resume.endswith("run a.toml --resume")
    end = read_heartbeat(run_dir.path)
    assert end is not None
    assert end.state is State.FINISHED
    assert f"results in {run_dir.path}" in capsys.readouterr().out.replace("\n", "")
    assert is_locked(run_dir.path) is False


def test_a_run_of_a_scheduler_is_resumed_by_hand_as_any_other():
    typed = ["run", "a.toml", "--auto-resume", "--set", "seed=1"]
    assert resume_command(typed).endswith("run a.toml --set seed=1 --resume")
    assert resume_command(typed, started=False).endswith("run a.toml --set seed=1")


PRINTS_AND_WORKS = """
import sys
from cluster import cli
from cluster.commands import plan
def work(options):
    print("step 1")
    sys.stdin.read()
plan._plan = work
cli.main(["plan", "a.toml"])
"""


def test_a_line_of_a_job_is_in_its_log_while_the_job_works():
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", PRINTS_AND_WORKS]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert select.select([job.stdout], [], [], 30)[0], "the line waits in a buffer"
        assert job.stdout.readline() == "step 1\n"
        assert job.poll() is None
        job.communicate(timeout=30)


def test_work_that_fails_says_so_and_lets_go_of_the_directory(run_dir: RunDir):
    async def work() -> dict[str, Any]:
        raise ValueError("no such clip")

    with pytest.raises(ValueError, match="no such clip"):
        run_in_directory(OPTIONS, run_dir, ("base",), lambda: work)
    end = read_heartbeat(run_dir.path)
    assert end is not None
    assert (end.state, end.reason) == (State.FAILED, "no such clip")
    assert is_locked(run_dir.path) is False


def test_a_preparation_that_fails_lets_go_of_the_directory(run_dir: RunDir):
    def prepare() -> Run:
        raise ValueError("no checkpoint")

    with pytest.raises(ValueError, match="no checkpoint"):
        run_in_directory(OPTIONS, run_dir, ("base",), prepare)
    assert read_heartbeat(run_dir.path) is None
    assert is_locked(run_dir.path) is False
