"""Lock files: partial files that one process at a time may write; a crash releases the lock."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wire.errors import DeadlineExceeded

_POLL_S = 0.02


@contextmanager
def locked(partial: Path, deadline: float) -> Iterator[BinaryIO]:
    """The partial file, open and locked; removed if the body fails.

    The kernel drops the lock of a process that dies.
    """
    partial.parent.mkdir(exist_ok=True)
    while True:
        with partial.open("ab") as file:
            if not try_lock(file):
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"another process holds {partial} and has not finished its clip; "
                        "end it if it hangs"
                    )
                time.sleep(_POLL_S)
            elif same_file(file, partial):
                try:
                    yield file
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                return
            # else its last owner renamed or removed it while this one waited: open the new one


def try_lock(file: BinaryIO | int) -> bool:
    """Lock an open file or folder; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
