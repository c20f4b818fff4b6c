"""User functions that misbehave where the completion is the name of a way to; a plugin file of
tests/reward/plugins/test_hostile.py, so it imports nothing of ours. Any other text gets its
length."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def raises():
    raise KeyError("rubric")


def exits_politely():
    sys.exit("enough")


def exits_at_once():
    os._exit(3)


def interrupts():
    raise KeyboardInterrupt


def cancels():
    raise asyncio.CancelledError


def recurses():
    return recurses()


def segfaults():
    return ctypes.string_at(0)


def aborts():
    os.abort()


def is_nan():
    return float("nan")


def is_minus_infinity():
    return {"score": float("-inf")}


def is_too_large():
    return 10**400


def is_text():
    return "1.0"


def is_list():
    return [1.0]


def is_complex():
    return 1j


def is_dict_without_score():
    return {"reward": 1.0}


def is_dict_of_text():
    return {"score": "high"}


class _NoRepr(Exception):
    def __repr__(self):
        raise ValueError("no repr")


def is_without_repr():
    return _NoRepr()


def raises_without_repr():
    raise _NoRepr


class _NoFloat(float):
    def __float__(self):
        raise RuntimeError("no float")


def is_without_float():
    return _NoFloat(1.0)


def sleeps():
    time.sleep(600)


def spins():
    while True:
        pass


def ignores_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


def stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


def floods_its_output():
    while True:
        os.write(1, b"noise " * 10_000)
        os.write(2, b"noise " * 10_000)


def deadlocks():
    lock = threading.Lock()
    with lock, lock:
        return 1.0


def eats_memory():
    hoard = []
    while True:
        hoard.append(bytearray(2**23))
        time.sleep(0.005)


def eats_memory_in_a_child():
    code = "import time; hoard = b'x' * (200 << 20); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code])


def asks_for_the_moon():
    return len(bytearray(2**60))


def forks_and_forks():
    for _ in range(20):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    time.sleep(600)


def forks_without_end():
    end = time.monotonic() + 2  # if nobody ends it
    while time.monotonic() < end:
        os.fork()


def closes_every_file():
    os.closerange(3, 256)
    time.sleep(600)


def scribbles_on_the_pipe():
    _write_everywhere(b"noise\n")
    time.sleep(600)


def scribbles_an_endless_line():
    while True:
        _write_everywhere(b"[" * 4096)


def scribbles_another_index():
    _write_everywhere(b'{"index": 77, "value": 1.0}\n')
    time.sleep(600)


def scribbles_a_nan():
    _write_everywhere(b'{"index": 1, "value": NaN}\n')
    time.sleep(600)


def _write_everywhere(text):
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if link.readlink().name.startswith("socket"):
                os.write(int(link.name), text)


def breaks_json():
    json.dumps = None


def kills_its_guard():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def prints_into_nothing():
    os.close(1)
    print("x")  # noqa: T201


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    act = globals().get(solution_str)
    return act() if callable(act) else len(solution_str)
