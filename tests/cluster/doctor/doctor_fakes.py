"""Trials that go wrong in every way. (No test file: they run in processes of their own.)"""

import os
import resource
import signal
import subprocess
import sys
import time

from cluster.doctor.machine_trials import try_open_files
from cluster.doctor.runner import Outcome


def works(found: str = "all well") -> Outcome:
    return Outcome(status="ok", found=found)


def raises() -> Outcome:
    raise ValueError("the first line\nand a second")


def crashes() -> Outcome:
    sys.stderr.write("about to fall\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)
    return works()


def leaves() -> Outcome:
    os._exit(7)


def hangs() -> Outcome:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return works()


def starts_others(file: str, seconds: float) -> Outcome:
    """A process in a session of its own, whose parent has ended, as Ray's are."""
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        f"open({file!r}, 'w').write(str(p.pid))\n"
        "time.sleep(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    time.sleep(seconds)
    return works()


def has_few_files() -> Outcome:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    return try_open_files()
