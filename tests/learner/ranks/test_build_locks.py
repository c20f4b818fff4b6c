"""What a process killed while it compiles an operator leaves, and what the next one does."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from learner.ranks.build_locks import builds_folder, remove_stale_locks


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """One that nobody holds, as old as it takes."""
    made = tmp_path / "py311_cpu" / "an_operator" / "lock"
    made.parent.mkdir(parents=True)
    made.touch()
    os.utime(made, (0, 0))
    return made


def test_an_old_lock_that_nobody_holds_is_removed_and_named(
    lock: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remove_stale_locks(tmp_path)
    assert not lock.exists()
    assert [r.getMessage() for r in caplog.records] == [
        f"removed {lock}: a process was killed while it compiled"
    ]


def test_a_lock_that_a_process_holds_stays_however_old(lock: Path, tmp_path: Path) -> None:
    code = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        remove_stale_locks(tmp_path, patience_s=0.0)
        assert lock.exists()
        holder.kill()
    remove_stale_locks(tmp_path, patience_s=0.0)
    assert not lock.exists()


def test_a_young_lock_whose_process_is_elsewhere_is_given_its_time(
    lock: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(lock)
    start = time.monotonic()
    remove_stale_locks(tmp_path, patience_s=1.0)
    assert 0.9 < time.monotonic() - start < 10.0
    assert not lock.exists()
    assert f"for {lock}, whose process is not here" in caplog.records[0].getMessage()


def test_a_young_lock_that_its_process_removes_is_not_waited_for_longer(
    lock: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(lock)
    end = threading.Timer(0.5, lock.unlink)
    end.start()
    remove_stale_locks(tmp_path, patience_s=60.0)
    end.join()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "waiting" in caplog.records[0].getMessage()


def test_nothing_compiled_yet_is_nothing_to_do(tmp_path: Path) -> None:
    remove_stale_locks(tmp_path / "none")


_JOIN = """
from learner.config import LearnerConfig
from learner.engine import join_ranks
from learner.ranks.rendezvous import open_rendezvous
config = LearnerConfig(num_gpus=0)
join_ranks(config, 0, "127.0.0.1", open_rendezvous(1))
print("joined", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_rank_killed_while_it_compiles_does_not_keep_the_next_one_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's own operator, compiled for real."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert builds_folder() == tmp_path
    command = [sys.executable, "-c", _JOIN]
    until = time.monotonic() + 200
    with subprocess.Popen(command) as first:
        while not (locks := list(tmp_path.rglob("lock"))) and time.monotonic() < until:
            time.sleep(0.05)
        first.kill()
    (lock,) = locks
    assert lock.exists(), "it was killed in the middle"
    os.utime(lock, (0, 0))
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "joined" in done.stdout
    assert f"removed {lock}" in done.stderr
