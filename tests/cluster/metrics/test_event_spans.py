from pathlib import Path
from typing import Any

import pytest

from cluster.metrics.event_spans import EventSpans
from cluster.metrics.events import Event
from cluster.metrics.step_timelines import StepTimelines, timeline_files
from wire.strict_json import from_json


def test_a_worker_that_does_not_serve_and_a_heal_are_spans(tmp_path: Path):
    now = 100.0
    timeline = StepTimelines(tmp_path, 0, clock=lambda: now)
    spans = EventSpans(timeline)

    def note(kind: str, subject: str, **fields: Any) -> None:
        spans.observe(Event(kind=kind, subject=subject, fields=fields))

    note("worker_joined", "rollout-0", state="restarting", cause="started")
    now = 103.0
    note("worker_state", "rollout-0", state="healthy")
    note("learner_died", "rank-0", cause="killed")
    now = 104.0
    note("learner_died", "rank-0", cause="killed again")
    now = 107.0
    note("learner_healed", "learner")
    note("worker_state", "rollout-0", state="dead", cause="engine_died")
    now = 110.0
    note("worker_left", "rollout-0")
    note("learner_healed", "learner")  # of a heal that nobody saw begin
    figures = timeline.end_step("grpo", 1, ["rollout-0"])
    timeline.close()
    (path,) = timeline_files(tmp_path, "grpo")
    found = [e for e in from_json(path.read_bytes())["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in found] == [
        ("heal", 3.0, 4.0),
        ("restarting", 0.0, 3.0),
        ("dead", 7.0, 3.0),
    ]
    assert figures["limit/learner"] == pytest.approx(0.4)
    assert figures["rollouter/idle_ratio"] == 1.0  # a start is no work
