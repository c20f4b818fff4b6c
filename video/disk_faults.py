"""Faults of the disk that a video lies on: those that may pass are no fault of the clip.

OSError -> passing? -> tried again, with pauses -> ClipUnreachable, which quarantines nothing
        -> else                                 -> the clip's error
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wire.errors import ClipUnreachable

_PASSING = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EREMOTEIO,
        errno.ENOLINK,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENFILE,
        errno.EMFILE,
    }
)
PAUSES_S = (0.5, 2.0, 8.0)
"""Before each further try: a server that moves to its spare takes some seconds."""
_BLOCK = 2**20

Value = TypeVar("Value")


def number_of(error: BaseException | None) -> int | None:
    """Error number of the system's error behind an error; None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None


def may_pass(number: int | None) -> bool:
    """Whether an error of this number may be gone in a moment."""
    return number in _PASSING


def patiently(act: Callable[[], Value], path: Path) -> Value:
    """Do what reads a video. Raises ClipUnreachable if its disk fails all the time, and any other
    OSError as it is."""
    for pause in PAUSES_S:
        try:
            return act()
        except OSError as error:
            if not may_pass(error.errno):
                raise
        time.sleep(pause)
    try:
        return act()
    except OSError as error:
        if not may_pass(error.errno):
            raise
        raise unreachable(path, error.strerror or str(error)) from error


def is_readable(path: Path) -> bool:
    """Whether the disk gives all bytes of a file; False only for faults that may pass."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        return not may_pass(error.errno)
    return True


def unreachable(path: Path, reason: str) -> ClipUnreachable:
    """The error of a video whose disk failed at every try."""
    return ClipUnreachable(
        f"the disk of {path} failed {len(PAUSES_S) + 1} times: {reason}; "
        "is its file system mounted and its server up?"
    )
