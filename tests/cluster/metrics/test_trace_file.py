import itertools
import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cluster.metrics.timeline import Span
from cluster.metrics.trace_file import (
    assign_lanes,
    read_facts,
    trace_events,
    track_kind,
    track_order,
    write_trace,
)
from wire.strict_json import from_json


def _span(track: str = "rollout-0", start: float = 0.0, end: float = 1.0) -> Span:
    return Span(track=track, name="answer", start=start, end=end)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=40))
def test_spans_of_a_lane_never_overlap_and_no_lane_could_be_saved(given: list[tuple[int, int]]):
    times = sorted((begin, begin + length) for begin, length in given)
    lanes = assign_lanes(times)
    for lane in set(lanes):
        own = [one for one, at in zip(times, lanes, strict=True) if at == lane]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    most = max((sum(a <= at < b for a, b in times) for at, _ in times), default=0)
    assert max(lanes, default=-1) + 1 == most


@given(st.lists(st.tuples(st.floats(0, 1e-5), st.floats(0, 1e-5)), min_size=1, max_size=20))
def test_spans_of_microseconds_at_todays_unix_time_do_not_seem_to_overlap(
    given: list[tuple[float, float]],
):
    now = 1.796e9
    spans = [_span(start=now + after, end=now + after + length) for after, length in given]
    ends: dict[int, int] = {}
    for event in trace_events(spans, now):
        if event["ph"] == "X":
            assert event["ts"] >= ends.get(event["tid"], 0)
            ends[event["tid"]] = event["ts"] + event["dur"]


def test_a_track_is_a_process_whose_lanes_are_threads():
    spans = [_span(end=2.0), _span(start=1.0, end=3.0), _span("driver", 0.0, 0.5)]
    events = list(trace_events(spans, 0.0))
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "driver", 2: "rollout-0"}
    worked = [e for e in events if e["ph"] == "X"]
    assert [(e["pid"], e["tid"], e["ts"], e["dur"]) for e in worked] == [
        (1, 3, 0, 500_000),
        (2, 4, 0, 2_000_000),
        (2, 5, 1_000_000, 2_000_000),
    ]


def test_a_span_of_no_length_can_be_seen():
    (shown,) = (e for e in trace_events([_span(end=0.0)], 0.0) if e["ph"] == "X")
    assert shown["dur"] == 1


def test_a_trace_file_is_json_with_the_facts_of_its_step(tmp_path: Path):
    path = tmp_path / "grpo" / "step-000001.json"
    write_trace(path, [_span(start=5.0, end=6.0)], {"step": 1, "idle": math.nan})
    assert read_facts(path) == {"step": 1, "idle": None, "start": 5.0}
    trace = from_json(path.read_bytes())
    assert trace["displayTimeUnit"] == "ms"
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    assert [one.name for one in path.parent.iterdir()] == ["step-000001.json"]


def test_tracks_are_sorted_by_kind_then_by_number():
    tracks = ["archive", "rollout-10", "rollout-2", "reward", "rank-1", "driver", "fleet"]
    assert sorted(tracks, key=track_order) == [
        "driver",
        "rank-1",
        "rollout-2",
        "rollout-10",
        "reward",
        "archive",
        "fleet",
    ]
    assert track_kind("rollout-10") == "rollout"
