"""Stack dumps of processes: each offers its stacks, and whoever may signal it reads them.

    offer_stacks() in a process -> SIGUSR2 -> stacks of all its threads, in memory
    take_stacks(pid) elsewhere on the node -> the text, or what the kernel says of the process

It works while Python hangs in a C call or holds its lock, which a call to an actor does not.
"""

import faulthandler
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_NAME = "deepintuit-stacks"
_LOOK_S = 0.05
_STATUS = ("State", "VmRSS", "VmSwap", "Threads")


def offer_stacks() -> None:
    """Let others read the stacks of this process's threads; once per process. Linux alone."""
    if hasattr(os, "memfd_create") and _memory_of(os.getpid()) is None:
        faulthandler.register(signal.SIGUSR2, file=os.memfd_create(_NAME), all_threads=True)


def take_stacks(pid: int, wait_s: float = 3.0) -> str:
    """Stacks of a process of this node, after a line on its state: whether it runs, sleeps or is
    stopped, and its memory."""
    memory = _memory_of(pid)
    if memory is None:
        return f"{_state(pid)}\n(offers no stacks)\n"
    stacks = "(ended)"
    with suppress(OSError):
        before = memory.stat().st_size
        os.kill(pid, signal.SIGUSR2)
        stacks = _written(memory, before, wait_s) or "(does not answer a signal)"
    return f"{_state(pid)}\n{stacks}\n"


def _written(memory: Path, before: int, wait_s: float) -> str:
    """What is written behind ``before``, once no more comes."""
    end, size = time.monotonic() + wait_s, before
    while time.monotonic() < end:
        time.sleep(_LOOK_S)
        now = memory.stat().st_size
        if now == size > before:
            break
        size = now
    with memory.open("rb") as file:
        file.seek(before)
        return file.read().decode(errors="replace").strip()


def _memory_of(pid: int) -> Path | None:
    """The memory that a process writes its stacks to, if it offers them."""
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if _NAME in str(file.readlink()):
                    return file if _listens(pid) else None
    return None


def _listens(pid: int) -> bool:
    """Whether a process has a handler for the signal, which would end it else."""
    mask = int(_status(pid).get("SigCgt", "0"), 16)
    return bool(mask >> (signal.SIGUSR2 - 1) & 1)


def _state(pid: int) -> str:
    status = _status(pid)
    if not status:
        return "process is gone"
    return ", ".join(f"{name} {status[name]}" for name in _STATUS if name in status)


def _status(pid: int) -> dict[str, str]:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}
