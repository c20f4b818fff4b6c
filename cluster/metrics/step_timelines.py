"""Timelines of a run's steps, kept as files of bounded number and size.

    spans -> RUN/timeline/STAGE/step-000012.json (cluster/metrics/trace_file.py)
          -> idle shares, what limits the step (cluster/metrics/work_clock.py)

A step keeps at most ``MAX_SPANS`` spans. When there are more, every second worker and rank is left
out whole, then every second of the rest, and of the other tracks every second span; the file says
so, and shares are counted over all. Kept are the files of a stage's first and last steps.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.metrics.timeline import DRIVER, OpenSpan, Span
from cluster.metrics.trace_file import track_kind, track_number, write_trace
from cluster.metrics.work_clock import WorkClock

log = logging.getLogger(__name__)

TIMELINE_FOLDER = "timeline"
MAX_SPANS = 20_000
"""Of a step; a file of so many has about 4 MB."""
FIRST_KEPT, LAST_KEPT = 3, 20
"""Steps of a stage whose files are kept."""


class StepTimelines:
    """Takes a run's spans and writes a file for each step, by a thread of its own."""

    def __init__(
        self,
        run_dir: Path,
        attempt: int,
        *,
        clock: Callable[[], float] = time.time,
        max_spans: int = MAX_SPANS,
        waits: bool = False,
    ) -> None:
        """``waits``: for the file of each step, where steps take no time of their own (a
        simulation)."""
        self._folder, self._attempt, self._now = run_dir / TIMELINE_FOLDER, attempt, clock
        self._max_spans, self._waits = max_spans, waits
        self._clock = WorkClock(clock())
        self._spans: list[Span] = []
        self._open: set[OpenSpan] = set()
        self._seen = Counter[str]()
        self._stride, self._left_out, self._is_full = 1, 0, False
        self._writer: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None

    def begin(self, track: str, name: str, **args: Any) -> OpenSpan:
        """Begin a span now."""
        now = self._now()
        self._clock.begin(track, name, now)
        span = OpenSpan(track=track, name=name, start=now, args=args)
        self._open.add(span)
        return span

    def end(self, span: OpenSpan) -> None:
        """End a span now."""
        now = self._now()
        self._open.discard(span)
        self._clock.end(span.track, span.name, now)
        self.add(span.track, span.name, span.start, now, **span.args)

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        """Add a span that has ended, with Unix times; it does not count as work of its track."""
        kind = track_kind(track)
        place = track_number(track)
        if place is None:
            place = self._seen[kind]
            self._seen[kind] += 1
        if self._keeps(track, place) and len(self._spans) >= self._max_spans and not self._is_full:
            self._thin()
        if not self._keeps(track, place) or len(self._spans) >= self._max_spans:
            self._left_out += 1
            return
        self._spans.append(Span(track=track, name=name, start=start, end=end, args=args))

    def begin_steps(self) -> None:
        """Begin a stage's first step now; what was before belongs to none."""
        self._clock.restart(self._now())
        self._open = {span for span in self._open if span.track != DRIVER}
        self._take_spans()

    def end_step(self, stage: str, step: int, workers: Collection[str]) -> Mapping[str, float]:
        """End a step: its file is written meanwhile. ``workers``: names of those that are there.
        Returns metrics."""
        now = self._now()
        shares = self._clock.take(now, workers)
        for one in self._open:  # in the file of each step that they reach into
            self.add(one.track, one.name, one.start, now, **one.args, goes_on=True)
        facts = {
            "stage": stage,
            "step": step,
            "attempt": self._attempt,
            "seconds": shares.seconds,
            "limits": dict(shares.limits),
            "idle": dict(shares.idle),
            "busy_s": dict(self._clock.busy_s),
            "present_s": dict(self._clock.present_s),
            "every": self._stride,
            "left_out": self._left_out,
        }
        self._write(stage, step, self._take_spans(), facts)
        return shares.figures()

    def close(self) -> None:
        """Wait until the last file is written."""
        if self._writer is not None:
            self._writer.shutdown()

    def _take_spans(self) -> list[Span]:
        spans, self._spans = self._spans, []
        self._stride, self._left_out, self._is_full = 1, 0, False
        self._seen.clear()
        return spans

    def _keeps(self, track: str, place: int) -> bool:
        return track == DRIVER or place % self._stride == 0

    def _thin(self) -> None:
        """Leave out every second worker and rank, and every second span of the other tracks."""
        self._stride *= 2
        order = Counter[str]()
        kept = []
        for one in self._spans:
            place = track_number(one.track)
            if place is None:  # those of every second place are left of an earlier thinning
                place = order[one.track] * self._stride // 2
                order[one.track] += 1
            if self._keeps(one.track, place):
                kept.append(one)
        self._left_out += len(self._spans) - len(kept)
        self._is_full = len(kept) > 0.9 * self._max_spans
        self._spans = kept

    def _write(self, stage: str, step: int, spans: list[Span], facts: dict[str, Any]) -> None:
        if self._written is not None and not self._written.done():
            return  # the disk is slower than the steps: this one has no file
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="timeline")
        self._written = self._writer.submit(_write_and_prune, self._folder / stage, spans, facts)
        if self._waits:
            self._written.result()


def timeline_files(run_dir: Path, stage: str) -> list[Path]:
    """Timeline files of a stage, in the order of their steps."""
    return [path for _, path in _numbered(run_dir / TIMELINE_FOLDER / stage)]


def _write_and_prune(folder: Path, spans: list[Span], facts: dict[str, Any]) -> None:
    try:
        write_trace(folder / f"step-{facts['step']:06d}.json", spans, facts)
        files = _numbered(folder)
        done_again = [path for step, path in files if step > facts["step"]]
        kept = [path for step, path in files if step <= facts["step"]]
        for path in (*done_again, *kept[FIRST_KEPT : max(FIRST_KEPT, len(kept) - LAST_KEPT)]):
            path.unlink(missing_ok=True)
    except OSError as error:  # a full disk is reported where results are written
        log.warning("no timeline of step %s: %s", facts["step"], error)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    names = ((re.fullmatch(r"step-(\d+)\.json", path.name), path) for path in folder.glob("*.json"))
    return sorted((int(name[1]), path) for name, path in names if name)
