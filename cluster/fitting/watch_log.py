"""Log of a watcher, OUT/watch.jsonl: of every version of the policy, what was decided and why.

It is all that a watcher remembers: what it measures it reads from the archive again when it starts
anew, and what it has decided stands here. A line that a kill has cut is written over.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wire.errors import ConfigError
from wire.strict_json import to_json
from wire.types import PolicyVersion

LOG_FILE = "watch.jsonl"
_LOCK_FILE = ".watch.lock"


class Outcome(StrEnum):
    """What became of a version."""

    FITTED = "fitted"
    NOT_BETTER = "not better"
    """Than the best so far, on val."""
    NO_WEIGHTS = "no weights"
    """Better, but the run has not kept its weights."""
    SUPERSEDED = "superseded"
    """Better, but a still better one came before its fit began."""
    FAILED = "failed"
    """Its fit was refused: the reason says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision on one version.

    Example:
        Decision(version="0.41", step=40, outcome=Outcome.FITTED, reason="...",
                 metric="val/accuracy", value=0.71, accuracy=0.71, unparsed_frac=0.02,
                 num_clips=128, measured_at=1.7e9)
    """

    version: str
    step: int
    """Of the stage."""
    outcome: Outcome
    reason: str
    """In words, for people."""
    metric: str
    value: float | None
    """The metric's value on val; None: it was not finite."""
    accuracy: float
    unparsed_frac: float
    num_clips: int
    measured_at: float
    """When the run logged the validation."""
    against: str | None = None
    """The best version before it; None: it was the first."""
    difference: float | None = None
    """Accuracy less that version's, on the clips of both."""
    difference_low: float | None = None
    difference_high: float | None = None
    """95% interval of the difference (Newcombe, paired)."""
    candidate: str | None = None
    """The classifier directory, relative to OUT."""
    seconds: float = 0.0
    """Of the fit."""


_ADAPTER = TypeAdapter(Decision)


class WatchLog:
    """Decisions so far, by version."""

    def __init__(self, out: Path) -> None:
        """Raises ConfigError if the file is none of ours."""
        self._path = out / LOG_FILE
        self.decisions: dict[PolicyVersion, Decision] = {}
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                decision = _ADAPTER.validate_json(line)
            except ValidationError as error:
                raise ConfigError(
                    f"{self._path} line {number} is no decision of a watcher ({error}); restore "
                    "the file, or give another OUT"
                ) from error
            self.decisions[PolicyVersion.parse(decision.version)] = decision

    def add(self, decision: Decision) -> None:
        """Append a decision; it is on the disk when this returns."""
        plain: dict[str, Any] = _ADAPTER.dump_python(decision, mode="json")
        with self._path.open("ab") as file:
            file.write(to_json(plain).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.decisions[PolicyVersion.parse(decision.version)] = decision

    def of(self, outcome: Outcome) -> list[Decision]:
        """Decisions of one outcome, in the order they were taken."""
        return [one for one in self.decisions.values() if one.outcome is outcome]

    def _whole_lines(self) -> list[bytes]:
        if not self._path.exists():
            return []
        text = self._path.read_bytes()
        whole, _, torn = text.rpartition(b"\n")
        if torn:
            with self._path.open("r+b") as file:
                file.truncate(len(text) - len(torn))
        return whole.splitlines() if whole else []


@contextmanager
def only_watcher(out: Path) -> Iterator[None]:
    """A lock on OUT during the block. Raises ConfigError if another watcher works there."""
    with (out / _LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise ConfigError(
                f"another watcher (process {pid}) works in {out}; end it, or give another OUT"
            ) from error
        except OSError:
            pass  # a file system without locks
        lock.truncate(0)
        lock.write(json.dumps(os.getpid()))
        lock.flush()
        yield
