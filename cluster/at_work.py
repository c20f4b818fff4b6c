"""A run says how it is: status.json, from its start to its end, and what ended it.

    with at_work(run_dir, ...):   -> state "running", every few seconds anew, by rename
        the work                  -> "finished" | "stopped" | "failed" and the reason

kill -9 leaves "running" behind: cluster/status.py tells by the lock and by the age of the last
sign that nobody is at work any more.
"""

import asyncio
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cluster.progress import Piece, reported_to
from cluster.run_dir import RunDir, replace_json
from wire.archive import next_attempt
from wire.disk import full_disk

EVERY_S = 3.0
"""Between two signs of life."""


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """status.json: what the process at work says of itself.

    Example:
        Sign(state=State.RUNNING, pid=712, host="node-3", started=1.7e9, seen=1.7e9, attempt=0,
             resume="deepintuit run my.toml --resume", folder="/home/me", work=("base", "grpo"))
    """

    state: State
    pid: int
    host: str
    started: float
    """Seconds since 1970, as all times."""
    seen: float
    """Of this sign."""
    attempt: int
    resume: str
    """The command that goes on with the run, once this process has ended."""
    folder: str
    """Where to give it."""
    work: tuple[str, ...]
    """Stages or control arms that it was started for, finished ones included."""
    reason: str = ""
    """Why it stopped or failed."""
    piece: Piece | None = None
    """The piece of work under way."""


_ADAPTER = TypeAdapter(Sign)


def status_file(run_dir: Path) -> Path:
    """Where the sign of a run is."""
    return run_dir / "status.json"


def read_sign(run_dir: Path) -> Sign | None:
    """The last sign; None without one that can be read."""
    try:
        return _ADAPTER.validate_json(status_file(run_dir).read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def at_work(run_dir: RunDir, work: Sequence[str], resume: str) -> Iterator["Signs"]:
    """Give signs for the time of the block, then say how it ended.

    Raises DiskFull in place of whatever a full disk has led to.
    """
    now = time.time()
    first = Sign(
        state=State.RUNNING,
        pid=os.getpid(),
        host=socket.gethostname(),
        started=now,
        seen=now,
        attempt=next_attempt(run_dir.archive),
        resume=resume,
        folder=str(Path.cwd()),
        work=tuple(work),
    )
    signs = Signs(run_dir.path, first)
    try:
        with reported_to(signs.note):
            yield signs
    except (KeyboardInterrupt, asyncio.CancelledError):
        signs.end(State.STOPPED, "it was interrupted")
        raise
    except BaseException as error:
        places = [run_dir.path, *run_dir.also_written, Path(tempfile.gettempdir())]
        full = full_disk(error, places) if isinstance(error, Exception) else None
        signs.end(State.FAILED, " ; ".join(map(str, causes(full or error))))
        if full is not None and full is not error:
            raise full from error
        raise
    signs.end(State.FINISHED, "")


def causes(error: BaseException) -> list[BaseException]:
    """What is behind a group of errors, and behind what Ray wraps."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in causes(inner)]
    return [getattr(error, "cause", None) or error]


class Signs:
    """Writes the sign from a thread of its own."""

    def __init__(self, path: Path, first: Sign) -> None:
        self._path, self._sign = path, first
        self._ended = threading.Event()
        self._write(first)
        self._thread = threading.Thread(target=self._work, name="signs", daemon=True)
        self._thread.start()

    def note(self, piece: Piece) -> None:
        """The piece of work under way."""
        self._sign = replace(self._sign, piece=piece)

    def end(self, state: State, reason: str) -> None:
        """The last sign."""
        self._ended.set()
        self._thread.join()
        self._write(replace(self._sign, state=state, reason=reason[:2000], seen=time.time()))

    def _work(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._write(replace(self._sign, seen=time.time()))

    def _write(self, sign: Sign) -> None:
        with suppress(OSError):  # a full disk is met, and said, where results are written
            replace_json(status_file(self._path), asdict(sign))
