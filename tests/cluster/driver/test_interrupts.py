"""Real signals to a small real process that has a run directory, cleaning up to do, and a child."""

import asyncio
import inspect
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.commands.base import interrupted, resume_command
from cluster.driver.interrupts import run_interruptibly

ROOT = Path(__file__).parents[3]

RUN = """
import asyncio, os, subprocess, sys, time
from pathlib import Path
from cluster import cli
from cluster.status.heartbeat import State, heartbeat
from cluster.commands.base import add_run_command, say
from cluster.driver.interrupts import run_interruptibly
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import make_config

async def work(path):
    child = subprocess.Popen(["sleep", "600"])
    print("up", child.pid, flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(float(os.environ.get("CLEANING_S", "0.2")))
        child.kill()
        child.wait()
        path.joinpath("cleaned").write_text("")

def act(options):
    path = options.run_dir
    run_dir = RunDir.open(path, make_config(), resume=False, overwrite=False)
    run_dir.archive.mkdir()
    try:
        with heartbeat(run_dir, ("base",), "again --resume") as writer:
            last = lambda: writer.end(State.STOPPED, "it was interrupted twice")
            run_interruptibly(work(path), say, last)
    finally:
        run_dir.close()

class Module:
    add = staticmethod(lambda commands: add_run_command(commands, "run", "", act))

cli._COMMANDS = (Module,)
sys.exit(cli.main(["run", "my.toml", "--run-dir", sys.argv[1]]))
"""


class Running:
    """The process, with its child."""

    def __init__(self, path: Path, **env: str) -> None:
        words = [sys.executable, "-c", RUN, str(path)]
        self.path = path
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said[:1] == ["up"], self.process.communicate()
        self.child = psutil.Process(int(said[1]))

    def ends(self, timeout_s: float = 20) -> str:
        """What it said until it ended with 130, with nothing left of it."""
        said = self.process.communicate(timeout=timeout_s)[1]
        assert self.process.returncode == 130, said
        deadline = time.monotonic() + 5
        while self.child.is_running() and self.child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "its child still runs"
            time.sleep(0.05)
        return said

    def last_heartbeat(self) -> tuple[str, str]:
        found = json.loads((self.path / "status.json").read_text())
        return found["state"], found["reason"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for one in started:
        one.process.kill()
        if one.child.is_running():
            one.child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_of_any_kind_ends_in_order(
    tmp_path: Path, start: list[Running], number: signal.Signals
):
    one = Running(tmp_path / "run")
    start.append(one)
    one.process.send_signal(number)
    said = one.ends()
    assert (tmp_path / "run/cleaned").exists()
    assert one.last_heartbeat() == ("stopped", "it was interrupted")
    assert f"run my.toml --run-dir {tmp_path / 'run'} --resume" in said


def test_a_second_one_ends_at_once_and_leaves_no_process(tmp_path: Path, start: list[Running]):
    one = Running(tmp_path / "run", CLEANING_S="600")
    start.append(one)
    one.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert one.process.poll() is None
    before = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    said = one.ends()
    assert time.monotonic() - before < 10
    assert "again: at once" in said
    assert not (tmp_path / "run/cleaned").exists()
    assert one.last_heartbeat() == ("stopped", "it was interrupted twice")


def test_a_closed_terminal_ends_it_in_order(tmp_path: Path):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", RUN, str(tmp_path / "run")])
    said = b""
    while b"up" not in said or b"\n" not in said.partition(b"up")[2]:
        said += os.read(terminal, 1000)
    child = psutil.Process(int(said.partition(b"up")[2].split()[0]))
    os.close(terminal)  # the kernel sends SIGHUP; what it writes from now on has no reader
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(done[1]) == 130
    assert (tmp_path / "run/cleaned").exists()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_nohup_stays_nohup(tmp_path: Path, start: list[Running]):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = Running(tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    start.append(one)
    one.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert one.process.poll() is None
    one.process.send_signal(signal.SIGINT)
    one.ends()


def test_the_command_that_resumes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [".venv/bin/deepintuit"])
    typed = ["run", "my recipe.toml", "--overwrite", "--set", "seed=1"]
    assert resume_command(typed) == (
        ".venv/bin/deepintuit run 'my recipe.toml' --set seed=1 --resume"
    )
    assert resume_command(typed, started=False).endswith("--set seed=1")
    assert resume_command(["study", "a.toml"]) == ".venv/bin/deepintuit study a.toml"
    monkeypatch.setattr(sys, "argv", ["/x/cluster/cli.py"])
    assert resume_command(["grpo", "a.toml", "--resume"]) == (
        "python -m cluster.cli grpo a.toml --resume"
    )


def test_before_a_run_has_started_the_same_command_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import argparse

    monkeypatch.setattr(sys, "argv", ["deepintuit"])
    typed = ["run", "a.toml"]
    options = argparse.Namespace(
        command="run", recipe=Path("a.toml"), run_dir=tmp_path / "none", typed=typed
    )
    assert interrupted(options).endswith("start again with: deepintuit run a.toml")
    assert interrupted(argparse.Namespace(command="ls")) == "interrupted"


def test_the_last_words_import_nothing_heavy() -> None:
    script = (
        "import argparse, sys; from cluster.commands.base import interrupted; "
        "interrupted(argparse.Namespace(command='import', typed=['import', 'a', 'b.jsonl'])); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_an_interrupt_before_the_work_began_leaves_nothing_to_complain_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted_at_once(main: object) -> None:
        raise KeyboardInterrupt

    async def work() -> None: ...

    monkeypatch.setattr(asyncio, "run", interrupted_at_once)
    given = work()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(given, print, lambda: None)
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED
