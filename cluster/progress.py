"""Progress bars with rate and time left; plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# A log file has no width: wide enough for our tables, so that no line is folded.
_width = None if sys.stdout.isatty() else 100
console = Console(highlight=False, width=_width)  # to whatever sys.stdout is then
_EVERY_S = 15.0  # between two lines in a log file


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """How far one piece of work is.

    Example:
        Piece(title="grpo", done=12, total=80, rate=0.4)
    """

    title: str
    done: int
    total: int
    rate: float
    """Parts per second, of this attempt; 0 before the first."""


Listener = Callable[[Piece], None]
_listeners: list[Listener] = []


@contextmanager
def reported_to(listener: Listener) -> Iterator[None]:
    """For the time of the block, all that bars are told."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Bar:
    """One piece of work with a known number of parts."""

    def __init__(self, title: str, total: int, progress: Progress | None) -> None:
        self._title, self._total, self._progress = title, total, progress
        self._task = progress.add_task(title, total=total, note="") if progress else None
        self._before = 0
        self._done, self._start, self._said = 0, time.monotonic(), time.monotonic()
        self._tell()

    def resume(self, done: int) -> None:
        """``done`` parts were finished by an earlier attempt; they say nothing about the rate."""
        self._done += done
        self._before = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=done)
        self._tell()

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more parts are done."""
        self._done += count
        self._tell()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, note=f"{self._rate():.1f}/s {note}")
        elif self._done >= self._total or time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            console.print(self._line(note))

    def _rate(self) -> float:
        return (self._done - self._before) / max(1e-9, time.monotonic() - self._start)

    def _tell(self) -> None:
        piece = Piece(title=self._title, done=self._done, total=self._total, rate=self._rate())
        for listener in _listeners:
            listener(piece)

    def _line(self, note: str) -> str:
        spent = time.monotonic() - self._start
        rate = self._rate()
        left = (self._total - self._done) / rate if rate else 0.0
        return (
            f"{self._title}: {self._done}/{self._total}, {rate:.1f}/s, {spent:.0f} s, "
            f"{left:.0f} s left {note}"
        )


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Bar]:
    """A bar for the time of the block."""
    if not console.is_terminal:
        yield Bar(title, total, None)
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(title, total, progress)
