"""Heartbeat of a run: rewrites status.json every 3 s and records how the run ended.

    with heartbeat(run_dir, ...):   -> state "running", every 3 s anew, by rename
        the work                    -> "finished" | "stopped" | "failed" and the reason

kill -9 leaves "running" behind: cluster/status/run_status.py tells by the lock and by the age of
the last heartbeat that the process is gone.
"""

import asyncio
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from cluster.driver.progress import Progress, progress_listener
from cluster.run_dir import RunDir
from wire.archive.archive import next_attempt
from wire.disk import full_disk
from wire.errors import root_causes
from wire.whole_file import replace_json

EVERY_S = 3.0
"""Between two heartbeats."""


class State(StrEnum):
    """State of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Contents of status.json: state, process and progress of a run. Two keys have other names.

    Example:
        Heartbeat(state=State.RUNNING, pid=712, host="node-3", started=1.7e9, last_beat=1.7e9,
                  attempt=0, resume="deepintuit run my.toml --resume", folder="/home/me",
                  work=("base", "grpo"))
    """

    state: State
    pid: int
    host: str
    started: float
    """Seconds since 1970, as all times."""
    last_beat: Annotated[float, Field(alias="seen")]
    """When this heartbeat was written."""
    attempt: int
    resume: str
    """Command that resumes the run, once this process has ended."""
    folder: str
    """Working directory for that command."""
    work: tuple[str, ...]
    """Stages or control arms that the process was started for, finished ones included."""
    reason: str = ""
    """Why it stopped or failed."""
    progress: Annotated[Progress | None, Field(alias="piece")] = None
    """Progress of the newest progress bar."""

    def to_plain(self) -> dict[str, Any]:
        """For JSON, with the keys of status.json."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", by_alias=True)
        return plain


_ADAPTER = TypeAdapter(Heartbeat)


def status_file(run_dir: Path) -> Path:
    """Path of a run's heartbeat."""
    return run_dir / "status.json"


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    """The last heartbeat of a run; None without one that can be read."""
    try:
        return _ADAPTER.validate_json(status_file(run_dir).read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def heartbeat(run_dir: RunDir, work: Sequence[str], resume: str) -> Iterator["HeartbeatWriter"]:
    """Write heartbeats during the block, then how the block ended.

    Raises DiskFull in place of whatever a full disk has led to.
    """
    now = time.time()
    first = Heartbeat(
        state=State.RUNNING,
        pid=os.getpid(),
        host=socket.gethostname(),
        started=now,
        last_beat=now,
        attempt=next_attempt(run_dir.archive),
        resume=resume,
        folder=str(Path.cwd()),
        work=tuple(work),
    )
    writer = HeartbeatWriter(run_dir.path, first)
    try:
        with progress_listener(writer.update):
            yield writer
    except (KeyboardInterrupt, asyncio.CancelledError):
        writer.end(State.STOPPED, "it was interrupted")
        raise
    except BaseException as error:
        places = [run_dir.path, *run_dir.also_written, Path(tempfile.gettempdir())]
        full = full_disk(error, places) if isinstance(error, Exception) else None
        writer.end(State.FAILED, " ; ".join(map(str, root_causes(full or error))))
        if full is not None and full is not error:
            raise full from error
        raise
    writer.end(State.FINISHED, "")


class HeartbeatWriter:
    """Writes heartbeats to status.json from a thread of its own."""

    def __init__(self, path: Path, first: Heartbeat) -> None:
        self._path, self._heartbeat = path, first
        self._ended = threading.Event()
        self._write(first)
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._thread.start()

    def update(self, progress: Progress) -> None:
        """Put ``progress`` into the next heartbeat."""
        self._heartbeat = replace(self._heartbeat, progress=progress)

    def end(self, state: State, reason: str) -> None:
        """Stop the thread and write the last heartbeat."""
        self._ended.set()
        self._thread.join()
        last = replace(self._heartbeat, state=state, reason=reason[:2000], last_beat=time.time())
        self._write(last)

    def _work(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._write(replace(self._heartbeat, last_beat=time.time()))

    def _write(self, beat: Heartbeat) -> None:
        with suppress(OSError):  # a full disk is reported where results are written
            replace_json(status_file(self._path), beat.to_plain())
