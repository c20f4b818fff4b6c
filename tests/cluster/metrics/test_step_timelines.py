from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics.step_timelines import FIRST_KEPT, LAST_KEPT, StepTimelines, timeline_files
from cluster.metrics.timeline import span
from cluster.metrics.trace_file import read_facts
from wire.strict_json import from_json


class Clock:
    """Clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = from_json(path.read_bytes())["traceEvents"]
    return events


def _steps(run_dir: Path) -> list[int]:
    return [int(path.stem.partition("-")[2]) for path in timeline_files(run_dir, "grpo")]


def test_a_step_has_a_file_of_its_spans_and_metrics_of_its_shares(tmp_path: Path):
    clock = Clock()
    timeline = StepTimelines(tmp_path, 1, clock=clock)
    with span(timeline, "driver", "gen"), span(timeline, "rollout-0", "answer", group="g1"):
        clock.now += 3
    clock.now += 1
    figures = timeline.end_step("grpo", 7, ["rollout-0", "rollout-1"])
    timeline.close()
    assert figures["limit/generation"] == pytest.approx(0.75)
    assert figures["rollouter/idle_ratio"] == pytest.approx(0.625)
    (path,) = timeline_files(tmp_path, "grpo")
    assert path == tmp_path / "timeline" / "grpo" / "step-000007.json"
    (answer,) = [e for e in _events(path) if e["name"] == "answer"]
    assert (answer["ts"], answer["dur"], answer["args"]) == (0, 3e6, {"group": "g1"})
    facts = read_facts(path)
    assert (facts["step"], facts["attempt"], facts["seconds"]) == (7, 1, 4.0)
    assert facts["idle"] == pytest.approx({"rollout-0": 0.25, "rollout-1": 1.0})


def test_what_goes_on_over_the_end_of_a_step_is_in_the_files_of_both(tmp_path: Path):
    clock = Clock()
    timeline = StepTimelines(tmp_path, 0, clock=clock)
    dead = timeline.begin("rollout-0", "dead", cause="node_died")
    for step in (1, 2):
        clock.now += 1
        timeline.end_step("grpo", step, [])
        timeline._written.result()  # type: ignore[union-attr]
    timeline.end(dead)
    timeline.end_step("grpo", 3, [])
    timeline.close()
    spans = [_events(path)[-1] for path in timeline_files(tmp_path, "grpo")]
    assert [one["dur"] for one in spans] == [1e6, 2e6, 2e6]
    assert [one["args"].get("goes_on") for one in spans] == [True, True, None]


def test_the_wait_of_a_stage_that_stopped_early_is_not_in_the_next_ones_files(tmp_path: Path):
    timeline = StepTimelines(tmp_path, 0)
    timeline.begin("driver", "gen")
    timeline.begin_steps()
    timeline.end(timeline.begin("driver", "update_actor"))
    timeline.end_step("second", 1, [])
    timeline.close()
    names = [e["name"] for e in _events(timeline_files(tmp_path, "second")[0]) if e["ph"] == "X"]
    assert names == ["update_actor"]


def test_files_of_the_first_and_the_last_steps_are_kept(tmp_path: Path):
    timeline = StepTimelines(tmp_path, 0)
    for step in range(1, 41):
        timeline.end_step("grpo", step, [])
        timeline._written.result()  # type: ignore[union-attr]
    timeline.close()
    last = list(range(41 - LAST_KEPT, 41))
    assert _steps(tmp_path) == [*range(1, FIRST_KEPT + 1), *last]


def test_steps_that_are_trained_again_leave_no_file_of_the_lost_ones(tmp_path: Path):
    for attempt, steps in enumerate([(1, 2, 3, 4, 5), (3,)]):
        timeline = StepTimelines(tmp_path, attempt)
        for step in steps:
            timeline.end_step("grpo", step, [])
            timeline._written.result()  # type: ignore[union-attr]
        timeline.close()
    assert _steps(tmp_path) == [1, 2, 3]
    assert read_facts(timeline_files(tmp_path, "grpo")[-1])["attempt"] == 1


def test_a_step_of_a_thousand_workers_stays_within_its_bound_and_keeps_whole_workers(
    tmp_path: Path,
):
    clock = Clock()
    timeline = StepTimelines(tmp_path, 0, clock=clock, max_spans=1000)
    timeline.end(timeline.begin("driver", "gen"))
    for _ in range(8):
        for worker in range(1000):
            with span(timeline, f"rollout-{worker}", "answer"):
                clock.now += 0.001
            timeline.end(timeline.begin("reward", "score"))
    timeline.end(timeline.begin("driver", "update_actor"))
    timeline.end_step("grpo", 1, [f"rollout-{worker}" for worker in range(1000)])
    timeline.close()
    path = timeline_files(tmp_path, "grpo")[0]
    events = [e for e in _events(path) if e["ph"] == "X"]
    facts = read_facts(path)
    assert len(events) <= 1000
    assert len(events) + facts["left_out"] == 16_002
    assert {"gen", "update_actor"} <= {e["name"] for e in events}
    per_worker = Counter(e["pid"] for e in events if e["name"] == "answer")
    assert set(per_worker.values()) == {8}  # all answers of those that are shown
    assert len(per_worker) >= 1000 // facts["every"]
    scored = sum(e["name"] == "score" for e in events)
    assert scored == pytest.approx(8000 / facts["every"], rel=0.5)
    assert facts["idle"]["rollout-999"] == pytest.approx(1 - 0.008 / 8, abs=1e-6)


def test_one_worker_with_too_many_spans_is_cut_not_thinned_for_ever(tmp_path: Path):
    timeline = StepTimelines(tmp_path, 0, max_spans=100)
    for _ in range(1000):
        timeline.end(timeline.begin("rollout-0", "answer"))
    timeline.end_step("grpo", 1, ["rollout-0"])
    timeline.close()
    facts = read_facts(timeline_files(tmp_path, "grpo")[0])
    assert facts["left_out"] == 900


def test_a_full_disk_costs_the_file_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "timeline").write_text("in its place")
    timeline = StepTimelines(tmp_path, 0)
    timeline.end_step("grpo", 1, [])
    timeline.close()
    assert "no timeline of step 1" in caplog.text
