"""Each of the faults inside of a rank ends its process at its call, and at no earlier one."""

import subprocess
import sys

_PROGRAM = """
import os, signal, sys
import torch
import torch.distributed
from tests.faults import inside

def ends(arm, *calls):
    if (child := os.fork()) == 0:
        inside.ACTS[arm](None)
        for number, call in enumerate(calls, 1):
            if number == len(calls):
                os.write(1, f"{arm} ".encode())
            call()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, arm

layers = torch.nn.Sequential(*[torch.nn.Identity() for _ in range(12)])
one = torch.zeros(1)
ends("forward", lambda: layers(one), lambda: layers(one))
ends("all-reduce", lambda: layers(one), lambda: torch.distributed.all_reduce(one))
ends("in-save", lambda: layers(one), lambda: os.rename("a", "b"))
"""


def test_a_rank_ends_at_the_call_that_it_was_armed_for():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["forward", "all-reduce", "in-save"]
