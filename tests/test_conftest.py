"""The tests pass however they are started: with signals ignored or blocked."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STARTED = """
import signal, subprocess, sys
from tests.conftest import hear_signals
hear_signals()
child = "import signal; print(signal.getsignal(signal.{name}), signal.pthread_sigmask(0, ()))"
sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})


def ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize("started", [ignore, block])
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_process_of_a_test_hears_signals(name: str, started: Callable[[], None]):
    script = STARTED.format(name=name)
    child = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        preexec_fn=started,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SIG_IGN" not in child.stdout
    assert child.stdout.strip().endswith("set()")


def test_under_nohup_the_tests_outlive_the_terminal():
    """The process itself goes on after SIGHUP, though its children can be ended by one."""
    script = (
        "import os, signal; from tests.conftest import hear_signals; hear_signals(); "
        "os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    child = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        preexec_fn=ignore,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout == "goes on\n"
