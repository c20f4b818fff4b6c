"""Progress bars with rate and time left; plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from cluster.driver.safe_console import SafeConsole

# A log file has no width: wide enough for our tables, so that no line is folded.
_width = None if sys.stdout.isatty() else 100
console = SafeConsole(width=_width)  # to whatever sys.stdout is then
error_console = SafeConsole(stderr=True, width=None if sys.stderr.isatty() else 100)
_EVERY_S = 15.0  # between two lines in a log file


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a task with a known number of parts.

    Example:
        Progress(title="grpo", done=12, total=80, rate=0.4)
    """

    title: str
    done: int
    total: int
    rate: float
    """Parts per second, of this attempt; 0 before the first."""

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate; None before the first part."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


_listeners: list[Callable[[Progress], None]] = []


@contextmanager
def progress_listener(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Inside the block, ``listener`` gets every progress update."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Bar:
    """Progress bar of a task with a known number of parts."""

    def __init__(
        self, title: str, total: int, shown: RichProgress | None, on: SafeConsole = console
    ) -> None:
        self._title, self._total, self._shown, self._on = title, total, shown, on
        self._task = shown.add_task(title, total=total, note="") if shown else None
        self._before = 0
        self._done, self._start, self._printed = 0, time.monotonic(), time.monotonic()
        self._notify()

    def resume(self, done: int) -> None:
        """``done`` parts were finished by an earlier attempt; they do not count in the rate."""
        self._done += done
        self._before = done
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, advance=done)
        self._notify()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more parts as done."""
        self._done += count
        self._notify()
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, advance=count, note=f"{self._rate():.1f}/s {note}")
        elif self._done >= self._total or time.monotonic() - self._printed > _EVERY_S:
            self._printed = time.monotonic()
            self._on.print(self._line(note))

    def _rate(self) -> float:
        return (self._done - self._before) / max(1e-9, time.monotonic() - self._start)

    def _notify(self) -> None:
        progress = Progress(
            title=self._title, done=self._done, total=self._total, rate=self._rate()
        )
        for listener in _listeners:
            listener(progress)

    def _line(self, note: str) -> str:
        spent = time.monotonic() - self._start
        rate = self._rate()
        left = (self._total - self._done) / rate if rate else 0.0
        return (
            f"{self._title}: {self._done}/{self._total}, {rate:.1f}/s, {spent:.0f} s, "
            f"{left:.0f} s left {note}"
        )


@contextmanager
def progress_bar(title: str, total: int, on: SafeConsole = console) -> Iterator[Bar]:
    """Show a progress bar during the block. ``on``: another console than that of stdout, whose
    lines then stay free of it."""
    if not on.is_terminal:
        yield Bar(title, total, None, on)
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # lines for stdout go above the bar where both are the terminal, and to stdout where it is not
    both = sys.stdout.isatty()
    with RichProgress(*columns, console=on, redirect_stdout=both, transient=not both) as shown:
        yield Bar(title, total, shown, on)
