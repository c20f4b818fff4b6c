"""Timeline of a run: spans of work on tracks (workers, ranks, rewards, the driver)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Span of work.

    Example:
        Span(track="rollout-0", name="answer", start=1764529200.0, end=1764529201.5)
    """

    track: str
    """Who worked: ``rollout-0``, ``rank-1``, ``reward``, ``driver``."""
    name: str
    """What was done: ``answer``, ``update_actor``, ``update_weights``, ..."""
    start: float
    """Unix time, seconds."""
    end: float
    args: dict[str, Any]
    """What more there is to say, of plain JSON values."""


class Timeline(Protocol):
    """Takes spans."""

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        """Add a span that has ended."""
        ...


class NoTimeline:
    """Forgets spans, where there is no run."""

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        """Nothing."""


@contextmanager
def span(timeline: Timeline, track: str, name: str, **args: Any) -> Iterator[None]:
    """Add what happens in a block as a span, also if it raises."""
    start = time.time()
    try:
        yield
    finally:
        timeline.add(track, name, start, time.time(), **args)
