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

_INSTANT_US = 1.0
"""Length that a span of less is shown with."""


def write_trace(path: Path, spans: Sequence[Span], facts: Mapping[str, Any]) -> None:
    """Write a trace file by rename; ``facts`` are its ``otherData``."""
    trace = {
        "displayTimeUnit": "ms",
        "otherData": dict(facts),
        "traceEvents": list(trace_events(spans)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(to_json(trace), encoding="utf-8")


def read_facts(path: Path) -> dict[str, Any]:
    """The ``otherData`` of a trace file. Raises OSError, ValueError."""
    return dict(from_json(path.read_text(encoding="utf-8"))["otherData"])


def trace_events(spans: Iterable[Span]) -> Iterable[dict[str, Any]]:
    """Trace events of spans: names of tracks and lanes, then the spans in the order of begin."""
    by_track: dict[str, list[Span]] = {}
    for one in spans:
        by_track.setdefault(one.track, []).append(one)
    for pid, track in enumerate(sorted(by_track, key=track_order), start=1):
        yield _named("process_name", pid, 0, {"name": track})
        yield _named("process_sort_index", pid, 0, {"sort_index": pid})
        own = sorted(by_track[track], key=lambda one: (one.start, one.end))
        lanes = assign_lanes(own)
        for lane in range(max(lanes) + 1):
            yield _named("thread_name", pid, lane, {"name": track if not lane else f"#{lane + 1}"})
        for one, lane in zip(own, lanes, strict=True):
            yield {
                "ph": "X",
                "pid": pid,
                "tid": lane,
                "name": one.name,
                "cat": track_kind(track),
                "ts": round(one.start * 1e6, 1),
                "dur": max(_INSTANT_US, round((one.end - one.start) * 1e6, 1)),
                "args": one.args,
            }


def assign_lanes(spans: Sequence[Span]) -> list[int]:
    """Lane of each span, sorted by begin: the first lane whose last span has ended, so that no two
    of a lane overlap and there are as few lanes as can be."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes, num_lanes = [], 0
    for one in spans:
        while busy and busy[0][0] <= one.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, num_lanes = num_lanes, num_lanes + 1
        lanes.append(lane)
        heapq.heappush(busy, (max(one.end, one.start + _INSTANT_US / 1e6), lane))
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
