"""File of new scores of archived groups: a line of JSON each, on disk before the next is begun.

    RescoredGroup -> append (write, fsync) -> scores.jsonl -> read_scores

A process that is killed leaves at most a torn last line, which is cut off on reopening; the group
is then judged again. A group that was judged again because a trace of it had failed has a later
line: the last one counts.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from wire.errors import ConfigError, DataError
from wire.strict_json import from_json, to_json
from wire.types import Failure, FailureKind, Score, TraceGroup
from wire.whole_file import sync_to_disk

Key = tuple[int, int, str, int]
"""Identifies an archived group: attempt, step, group id, and its number among groups that share all
three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A reward with its parts, or why there is none.

    Example:
        Outcome(total=1.5, parts={"accuracy": 1.0, "format": 0.5})
    """

    total: float | None
    """None: not scored."""
    parts: Mapping[str, float]
    failure: str = ""
    is_failed: bool = False
    """Whether scoring failed; else, without a total, no part applied."""

    @classmethod
    def of(cls, outcome: Score | Failure) -> Self:
        """The outcome of one trace, from the scorer's result."""
        if isinstance(outcome, Score):
            return cls(total=outcome.total, parts=dict(outcome.parts))
        failed = outcome.kind is not FailureKind.NOT_APPLICABLE
        reason = f"{outcome.culprit}: {outcome.reason}"
        return cls(total=None, parts={}, failure=reason, is_failed=failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredGroup:
    """One archived group with its old and new outcomes, in the order of its traces."""

    key: Key
    purpose: str
    sample_id: str
    label: str
    before: tuple[Outcome, ...]
    now: tuple[Outcome, ...]

    @classmethod
    def join(cls, key: Key, group: TraceGroup, outcomes: tuple[Outcome, ...]) -> Self:
        """An archived group with its new outcomes."""
        return cls(
            key=key,
            purpose=group.purpose.value,
            sample_id=group.sample.id,
            label=group.sample.label,
            before=tuple(Outcome.of(trace.outcome) for trace in group.traces),
            now=outcomes,
        )

    @property
    def is_done(self) -> bool:
        """Whether no trace of it failed: a failed one may succeed the next time."""
        return not any(outcome.is_failed for outcome in self.now)


class ScoreFile:
    """``scores.jsonl``, open for appending by one process.

    Example:
        with ScoreFile(folder / "scores.jsonl") as scores:
            scores.append(judged)
    """

    def __init__(self, path: Path) -> None:
        """Opens the file and cuts off a torn last line. Raises ConfigError if another process has
        it open, DataError if a line before the last is no rescored group."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.judged = {judged.key: judged for judged in _read(path)}
            self._file.truncate(_end_of_last_line(path))
            sync_to_disk(path.parent)
        except BlockingIOError as error:
            self._file.close()
            raise ConfigError(
                f"another process is scoring into {path.parent}; wait for it, or stop it"
            ) from error
        except BaseException:
            self._file.close()
            raise

    def append(self, judged: RescoredGroup) -> None:
        """Append a group. Once this returns the group is not scored again, whatever happens to this
        process."""
        self._file.write(to_json(asdict(judged)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.judged[judged.key] = judged

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_scores(path: Path) -> list[RescoredGroup]:
    """The last line of every group, in the order of first writing. Raises DataError."""
    return list({judged.key: judged for judged in _read(path)}.values())


def _read(path: Path) -> list[RescoredGroup]:
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    try:
        return [_judged(from_json(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}); move it away to score everything again"
        ) from error


def _judged(values: dict[str, Any]) -> RescoredGroup:
    attempt, step, group_id, number = values["key"]
    fields = {
        name: tuple(Outcome(**outcome) for outcome in values[name]) for name in ("before", "now")
    }
    return RescoredGroup(**{**values, **fields, "key": (attempt, step, group_id, number)})


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1
