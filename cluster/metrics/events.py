"""Events of a run: what failed, healed, joined and left, one line of JSON each in events.jsonl.

pool, learner, scorer -> EventLog -> events.jsonl -> status, report, tests (the witness of a fault)
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wire.strict_json import from_json, to_json

log = logging.getLogger(__name__)

EVENTS_FILE = "events.jsonl"

_TYPES: dict[str, type | tuple[type, ...]] = {
    "time": (int, float),
    "attempt": int,
    "kind": str,
    "subject": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Event of a run.

    Example:
        Event(kind="worker_state", subject="rollout-3", fields={"state": "dead", "cause": "probe"})
    """

    kind: str
    """What happened: ``worker_state``, ``learner_died``, ``learner_healed``, ``scaled``, ..."""
    subject: str
    """To whom: a worker, a rank, a group."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What more there is to say, of plain JSON values."""
    time: float = 0.0
    """Unix time, seconds."""
    attempt: int = 0
    """Number of the start of the run."""


class Events(Protocol):
    """Takes events; :class:`EventLog` writes them down."""

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        """Note an event of now."""
        ...


class NoEvents:
    """Forgets events, where there is no run."""

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        """Nothing."""


class EventLog:
    """Appends events to ``events.jsonl``, each in one write, so that lines stay whole.

    A disk that is full loses the line with a warning: results, which are written elsewhere, end the
    run then.
    """

    def __init__(self, run_dir: Path, attempt: int, *observers: Callable[[Event], None]) -> None:
        """``observers``: get each event, too."""
        self._path, self._attempt = run_dir / EVENTS_FILE, attempt
        self._observers = observers
        self._file: io.FileIO | None = None
        self._is_cut = _ends_in_half_a_line(self._path)

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        """Note an event of now."""
        now = time.time()
        line = {"time": now, "attempt": self._attempt, "kind": kind, "subject": subject}
        self._append((to_json({**line, **fields}) + "\n").encode())
        event = Event(kind=kind, subject=subject, fields=fields, time=now, attempt=self._attempt)
        for observe in self._observers:
            observe(event)

    def _append(self, line: bytes) -> None:
        data = b"\n" + line if self._is_cut else line
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._is_cut = True
            self._is_cut = self._file.write(data) < len(data)
        except OSError as error:
            log.warning("%s lacks an event: %s: %s", self._path, error, line.decode().strip())


def _ends_in_half_a_line(path: Path) -> bool:
    """Whether a process was killed while it wrote."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read_events(run_dir: Path) -> Iterator[Event]:
    """Events of a run in their order; none without a file. A line that a crash cut, or that is no
    event, is left out."""
    path = run_dir / EVENTS_FILE
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = from_json(line.decode(errors="replace"))
            except ValueError:
                continue
            if _is_event(row):
                known = {key: row.pop(key) for key in _TYPES}
                yield Event(**known, fields=row)


def _is_event(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(key), kind) for key, kind in _TYPES.items()
    )
