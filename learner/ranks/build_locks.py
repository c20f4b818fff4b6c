"""Removes locks that killed processes left where torch compiles DeepSpeed's operators.

Who compiles an operator holds a file ``lock`` in its folder open and removes it at the end;
everybody else waits until it is gone. A process that is killed meanwhile leaves it, and the next
ones, those of a resumed run among them, would wait for ever.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

log = logging.getLogger(__name__)


def builds_folder() -> Path:
    """The folder where torch keeps compiled extensions."""
    from torch.utils.cpp_extension import get_default_build_root

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def remove_stale_locks(folder: Path, patience_s: float = 120.0) -> None:
    """Remove the locks that no process of this machine has open and that are older than
    ``patience_s``: the one who made a younger one may be in another container or on another
    machine, so it is given that time to end."""
    for lock in sorted(folder.rglob("lock")):
        with suppress(FileNotFoundError):  # its maker has finished
            _remove_if_stale(lock, patience_s)


def _remove_if_stale(lock: Path, patience_s: float) -> None:
    status = lock.stat()
    if _is_open(status):
        return
    left_s = status.st_mtime + patience_s - time.time()
    if left_s > 0:
        log.warning("waiting up to %.0f s for %s, whose process is not here", left_s, lock)
    while time.time() < status.st_mtime + patience_s:
        time.sleep(min(1.0, patience_s / 10))
        if lock.stat().st_ino != status.st_ino:
            return
    lock.unlink()
    log.warning("removed %s: a process was killed while it compiled", lock)


def _is_open(file: os.stat_result) -> bool:
    """Whether a process that this user may look at has the file open."""
    for process in psutil.pids():
        with suppress(OSError), os.scandir(f"/proc/{process}/fd") as opened:
            for entry in opened:
                with suppress(OSError):
                    if os.path.samestat(entry.stat(), file):
                        return True
    return False
