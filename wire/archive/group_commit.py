"""Group commit: one write to the disk for all that threads hand in at the same time.

    add -> waits while another thread writes -> the first to go on writes for all that wait

A write that ends with fsync takes milliseconds, however much it writes.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Entry:
    name: str
    record: bytes
    is_done: bool = False
    error: Exception | None = None


class GroupCommit:
    """Writer of records by name. Threads share it."""

    def __init__(self, write: Callable[[Mapping[str, bytes]], None]) -> None:
        """``write`` makes some records durable, or raises and has then written none of them; it is
        called by one thread at a time."""
        self._write = write
        self._turn = threading.Condition(threading.Lock())
        self._waiting: list[_Entry] = []
        self._is_writing = False

    def add(self, name: str, record: bytes) -> None:
        """Write a record; it is durable when this returns. Raises what ``write`` raised for it and
        those beside it."""
        own = _Entry(name, record)
        with self._turn:
            self._waiting.append(own)
            while self._is_writing and not own.is_done:
                self._turn.wait()
            if not own.is_done:
                self._is_writing = True
                batch, self._waiting = self._waiting, []
        if not own.is_done:
            self._write_all(batch)
        if own.error is not None:
            raise own.error

    def _write_all(self, batch: list[_Entry]) -> None:
        error: Exception | None = None
        try:
            self._write({one.name: one.record for one in batch})
        except Exception as failure:  # noqa: BLE001  raised for each of them
            error = failure
        except BaseException:  # of this thread alone
            error = InterruptedError("the thread that wrote it was interrupted")
            raise
        finally:
            with self._turn:
                for one in batch:
                    one.is_done, one.error = True, error
                self._is_writing = False
                self._turn.notify_all()
