import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from reward.plugins.watchdog import _count_below, _tree

FAMILY = """
import subprocess, sys, threading
def start():
    started.append(subprocess.Popen(["sleep", "60"]))
started = []
start()
thread = threading.Thread(target=start)
thread.start()
thread.join()
ended = subprocess.Popen(["true"])
print("up", flush=True)
sys.stdin.read()
for each in started:
    each.kill()
    each.wait()
"""


@pytest.fixture
def family() -> Iterator[int]:
    """A process with two children, one of them another thread's, and one that has ended."""
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        yield parent.pid
        parent.communicate(timeout=30)


@pytest.mark.parametrize(("limit", "count"), [(9, 2), (2, 2), (1, 2), (0, 1)])
def test_living_processes_are_counted_up_to_one_above_the_limit(
    family: int, limit: int, count: int
) -> None:
    assert len(_tree(family)) in (2, 3)  # the third may still be ending
    while len(_tree(family)) > 2:
        os.sched_yield()
    assert _count_below(family, limit) == count
