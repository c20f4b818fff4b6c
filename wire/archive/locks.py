"""Locks of an archive's directory: whether a run writes here, and one compaction at a time.

    writer-lock       shared by every open Archive; exclusive while journals of dead attempts go
    compaction-lock   exclusive while files are merged or removed
    deletion-lock     exclusive while tombstones are added

The system releases a lock with its process, however that ends. On a file system without locks a
writer is taken to be alive. In a store such as S3 the compaction's is an object.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wire.errors import ArchiveError
from wire.remote_path import RemotePath

_WRITER, _COMPACTION, _DELETION = "writer-lock", "compaction-lock", "deletion-lock"


def hold_as_writer(directory: Path) -> IO[str]:
    """A file whose closing releases the writer's lock; waits for a compaction of dead attempts'
    journals. Raises OSError if the file cannot be made."""
    file = (directory / _WRITER).open("a+")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def without_writer(directory: Path) -> Iterator[bool]:
    """Whether no run writes here; if so, none begins in the block. No run writes to a store; in a
    folder that cannot be written, whose run may be another's, one is taken to."""
    if isinstance(directory, RemotePath):
        yield True
        return
    try:
        opened = (directory / _WRITER).open("a+")
    except OSError:
        yield False
        return
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


@contextmanager
def compacting(directory: Path) -> Iterator[None]:
    """Keep other compactions out during the block. Raises ArchiveError if one is going on."""
    if isinstance(directory, RemotePath):
        yield from _compacting_in_store(directory / _COMPACTION)
        return
    with (directory / _COMPACTION).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ArchiveError(
                f"process {file.read() or 'unknown'} is compacting {directory}; wait for its end"
            ) from error
        except OSError as error:
            raise ArchiveError(
                f"{directory} is on a file system without locks ({error.strerror}), where two "
                "compactions could undo each other; copy the archive to another disk"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def deleting(directory: Path) -> Iterator[None]:
    """Keep other deletions waiting during the block, so that none is lost. In a store none waits.
    Raises OSError if the file cannot be made."""
    if isinstance(directory, RemotePath):
        yield
        return
    with (directory / _DELETION).open("a+") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compacting_in_store(lock: RemotePath) -> Iterator[None]:
    """An object that is there during the block; unlike the system's locks it outlives a process
    that is killed."""
    who = f"process {os.getpid()} on {socket.gethostname()}"
    if not lock.create(who.encode()):
        raise ArchiveError(
            f"{lock.read_text()} is compacting {lock.parent}; wait for its end, or, if it was "
            f"killed, remove {lock}"
        )
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
