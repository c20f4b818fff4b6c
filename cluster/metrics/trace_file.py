"""Chrome trace files: the spans of a step as JSON that Perfetto (ui.perfetto.dev) and
chrome://tracing open.

    spans -> a process per track, a thread per lane (spans of a lane never overlap) -> JSON

Format: "Trace Event Format" of Chromium's tracing, JSON object form; complete events ``X`` with
times in microseconds, names of processes and threads as metadata events ``M``.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.metrics.timeline import ARCHIVE, DRIVER, QUEUE, REWARD, Span
from wire.strict_json import from_json, to_json
from wire.whole_file import whole_file

_ORDER = (DRIVER, "rank", "rollout", REWARD, ARCHIVE, QUEUE)
"""Kinds of tracks from the top of the page to its end."""

_SHORTEST_US = 1
"""Length that a shorter span is shown with."""


def write_trace(path: Path, spans: Sequence[Span], facts: Mapping[str, Any]) -> None:
    """Write a trace file by rename; ``facts`` are its ``otherData``, with the Unix time of its time
    0."""
    start = min((one.start for one in spans), default=0.0)
    trace = {
        "displayTimeUnit": "ms",
        "otherData": {**facts, "start": start},
        "traceEvents": list(trace_events(spans, start)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(to_json(trace), encoding="utf-8")


def read_facts(path: Path) -> dict[str, Any]:
    """The ``otherData`` of a trace file. Raises OSError, ValueError."""
    return dict(from_json(path.read_text(encoding="utf-8"))["otherData"])


def trace_events(spans: Iterable[Span], start: float) -> Iterable[dict[str, Any]]:
    """Trace events of spans: names of tracks and lanes, then the spans in the order of begin.

    Times count from ``start``, in whole microseconds: of Unix times in microseconds a float64 keeps
    no fraction, and spans of a lane that seem to overlap are dropped by viewers. No thread has the
    number of another, or of a process: viewers take such for one.
    """
    by_track: dict[str, list[tuple[int, int, Span]]] = {}
    for one in spans:
        begin, end = (round(1e6 * (at - start)) for at in (one.start, one.end))
        times = (begin, max(end, begin + _SHORTEST_US), one)
        by_track.setdefault(one.track, []).append(times)
    first = len(by_track) + 1
    for pid, track in enumerate(sorted(by_track, key=track_order), start=1):
        yield _named("process_name", pid, first, {"name": track})
        yield _named("process_sort_index", pid, first, {"sort_index": pid})
        own = sorted(by_track[track], key=lambda times: times[:2])
        lanes = assign_lanes([times[:2] for times in own])
        for lane in range(max(lanes) + 1):
            name = track if not lane else f"#{lane + 1}"
            yield _named("thread_name", pid, first + lane, {"name": name})
        for (begin, end, one), lane in zip(own, lanes, strict=True):
            yield {
                "ph": "X",
                "pid": pid,
                "tid": first + lane,
                "name": one.name,
                "cat": track_kind(track),
                "ts": begin,
                "dur": end - begin,
                "args": one.args,
            }
        first += max(lanes) + 1


def assign_lanes(times: Sequence[tuple[int, int]]) -> list[int]:
    """Lane of each span (begin, end), sorted by begin: the first lane whose last span has ended, so
    that no two of a lane overlap and there are as few lanes as can be."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    lanes, num_lanes = [], 0
    for begin, end in times:
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, num_lanes = num_lanes, num_lanes + 1
        lanes.append(lane)
        heapq.heappush(busy, (end, lane))
    return lanes


def track_kind(track: str) -> str:
    """Kind of a track: its name without a number."""
    return re.sub(r"-\d+$", "", track)


def track_number(track: str) -> int | None:
    """Number of a worker's or rank's track; None for the others."""
    numbered = re.search(r"-(\d+)$", track)
    return int(numbered[1]) if numbered else None


def track_order(track: str) -> tuple[int, str, int]:
    """Place of a track on the page: by kind, then by number."""
    kind = track_kind(track)
    place = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    return place, kind, track_number(track) or 0


def _named(what: str, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": args}
