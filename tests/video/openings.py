"""Openings of files in a folder, by any process, as the kernel reports them."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN = 0x20


@contextmanager
def openings(folder: Path) -> Iterator[list[str]]:
    """Names of the files that were opened in the block; complete after it."""
    names: list[str] = []
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(folder), _OPEN) >= 0
        yield names
        names += _read(watch)
    finally:
        os.close(watch)


def _read(watch: int) -> Iterator[str]:
    while True:
        try:
            events = os.read(watch, 1 << 20)
        except BlockingIOError:
            return
        while events:
            _, _, _, length = struct.unpack_from("iIII", events)
            if name := events[16 : 16 + length].rstrip(b"\0"):
                yield os.fsdecode(name)
            events = events[16 + length :]
