"""The watchdog in real processes, spawned as vLLM spawns its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

_ENGINE = """
import multiprocessing, os, sys, time
from rollout.engine_watchdog import end_with_owner

spawn = multiprocessing.get_context("spawn")

def worker(owner):
    end_with_owner(owner)
    os.write(1, b"%d\\n" % os.getpid())  # one write: lines of two processes never mix
    time.sleep(600)

def core(owner, num_workers):
    if not num_workers:  # it is its own worker, as on a CPU
        worker(owner)
    for _ in range(num_workers):
        spawn.Process(target=worker, args=(owner,)).start()
    time.sleep(600)

if __name__ == "__main__":
    child = spawn.Process(target=core, args=(os.getpid(), int(sys.argv[1])))
    child.start()
    os.write(1, b"%d\\n" % child.pid)
    time.sleep(600)
"""


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """Owner, engine core, workers (``request.param`` of them), all running."""
    script = tmp_path / "engine.py"
    script.write_text(_ENGINE)
    num_workers: int = request.param
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    owner = subprocess.Popen(
        [sys.executable, str(script), str(num_workers)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert owner.stdout is not None
    lines = [int(owner.stdout.readline()) for _ in range(1 + max(1, num_workers))]
    started = [psutil.Process(pid) for pid in dict.fromkeys([owner.pid, *lines])]
    yield started
    for process in reversed(started):
        if process.is_running():
            process.kill()
    owner.wait()
    owner.stdout.close()


@pytest.mark.parametrize("processes", [0, 1, 2], indirect=True)
def test_a_killed_actor_leaves_no_process_of_its_engine(processes: list[psutil.Process]):
    owner, core, *workers = processes
    assert core.ppid() == owner.pid
    assert [worker.ppid() for worker in workers] == [core.pid] * len(workers)
    os.kill(owner.pid, signal.SIGKILL)
    _, left = psutil.wait_procs([core, *workers], timeout=10)
    assert left == []


@pytest.mark.parametrize("processes", [2], indirect=True)
def test_workers_end_with_their_core_and_the_actor_goes_on(processes: list[psutil.Process]):
    owner, core, *workers = processes
    os.kill(core.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(workers, timeout=10)
    assert left == []
    assert owner.is_running()
