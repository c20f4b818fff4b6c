"""Timeline of a run: spans of work on tracks (workers, ranks, rewards, the driver).

group writer, dispatcher, learner ranks, step -> Timeline -> cluster/metrics/step_timelines.py
"""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

DRIVER = "driver"
"""Track of the training loop: the phases of a step, one after another."""
REWARD = "reward"
QUEUE = "queue"
ARCHIVE = "archive"
ANSWER = "answer"
"""Name of the spans in which a rollout worker is at work; others on its track are starts, prompts
and updates."""


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
    args: dict[str, Any] = field(default_factory=dict)
    """What more there is to say, of plain JSON values."""


@dataclass(slots=True, kw_only=True, eq=False)
class OpenSpan:
    """Span that has begun; ``args`` may be added to until it ends."""

    track: str
    name: str
    start: float
    args: dict[str, Any] = field(default_factory=dict)


class Timeline(Protocol):
    """Takes spans."""

    def begin(self, track: str, name: str, **args: Any) -> OpenSpan:
        """Begin a span now; :func:`span` is the usual way."""
        ...

    def end(self, span: OpenSpan) -> None:
        """End a span now."""
        ...

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        """Add a span that has ended, with Unix times; it does not count as work of its track."""
        ...

    def begin_steps(self) -> None:
        """Begin a stage's first step now; what was before belongs to none."""
        ...

    def end_step(self, stage: str, step: int, workers: Collection[str]) -> Mapping[str, float]:
        """End a step; ``workers``: names of those that are there. Returns metrics."""
        ...


class NoTimeline:
    """Forgets spans, where there is no run."""

    def begin(self, track: str, name: str, **args: Any) -> OpenSpan:
        """Nothing is kept."""
        return OpenSpan(track=track, name=name, start=time.time(), args=args)

    def end(self, span: OpenSpan) -> None:
        """Nothing."""

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        """Nothing."""

    def begin_steps(self) -> None:
        """Nothing."""

    def end_step(self, stage: str, step: int, workers: Collection[str]) -> Mapping[str, float]:
        """No metrics."""
        return {}


@contextmanager
def span(timeline: Timeline, track: str, name: str, **args: Any) -> Iterator[OpenSpan]:
    """Take what happens in a block as a span, also if it raises."""
    opened = timeline.begin(track, name, **args)
    try:
        yield opened
    finally:
        timeline.end(opened)
