import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wire.stack_dump import take_stacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

OFFERS = """
import threading, time
from wire.stack_dump import offer_stacks

def hold_on():
    lock = threading.Lock()
    lock.acquire()
    print("up", flush=True)
    lock.acquire()

offer_stacks()
offer_stacks()
hold_on()
"""
OFFERS_NONE = "import time; print('up', flush=True); time.sleep(60)"


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_that_hangs_says_where_again_and_again():
    with process(OFFERS) as child:
        for _ in range(2):
            text = take_stacks(child.pid, wait_s=20)
            assert text.count(" in hold_on") == 1
            assert "State S (sleeping)" in text
        assert child.poll() is None


def test_a_stopped_process_is_said_to_be_stopped():
    with process(OFFERS) as child:
        child.send_signal(signal.SIGSTOP)
        text = take_stacks(child.pid, wait_s=1.0)
        assert "State T (stopped)" in text
        assert "does not answer a signal" in text


def test_a_process_that_offers_none_is_not_ended_by_the_question():
    with process(OFFERS_NONE) as child:
        assert "(offers no stacks)" in take_stacks(child.pid)
        assert child.poll() is None
    assert take_stacks(child.pid).startswith("process is gone")
