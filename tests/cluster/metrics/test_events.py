from pathlib import Path

import pytest

from cluster.metrics.events import EVENTS_FILE, Event, EventLog, read_events


def test_events_are_read_as_they_were_noted(tmp_path: Path):
    log = EventLog(tmp_path, 3)
    log.note("worker_state", "rollout-1", state="dead", cause="engine_died")
    log.note("learner_healed", "rank-0", seconds=2.5)
    first, second = read_events(tmp_path)
    assert (first.kind, first.subject, first.attempt) == ("worker_state", "rollout-1", 3)
    assert first.fields == {"state": "dead", "cause": "engine_died"}
    assert second.fields == {"seconds": 2.5}
    assert first.time <= second.time


def test_half_a_line_of_a_killed_process_is_left_out(tmp_path: Path):
    EventLog(tmp_path, 0).note("scaled", "pool", workers=4)
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"kind": "sca')
    assert [event.kind for event in read_events(tmp_path)] == ["scaled"]


def test_the_first_event_after_half_a_line_is_read(tmp_path: Path):
    (tmp_path / EVENTS_FILE).write_text('{"kind": "sca')
    EventLog(tmp_path, 1).note("scaled", "pool", workers=4)
    assert [event.attempt for event in read_events(tmp_path)] == [1]


def test_an_observer_gets_what_is_written(tmp_path: Path):
    seen: list[Event] = []
    EventLog(tmp_path, 2, seen.append).note("request_moved", "rollout-1", cause="engine_died")
    assert seen == list(read_events(tmp_path))


def test_events_after_a_full_disk_are_read(tmp_path: Path):
    log = EventLog(tmp_path, 0)
    log.note("scaled", "pool", workers=4)
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(b'{"time": 1, "att')  # as much of the line as the disk took
    log._is_cut = True
    log.note("scaled", "pool", workers=5)
    assert [event.fields["workers"] for event in read_events(tmp_path)] == [4, 5]


def test_a_file_that_cannot_be_written_costs_the_event_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    EventLog(tmp_path / "gone", 0).note("scaled", "pool", workers=4)
    assert "lacks an event" in caplog.text
    assert "scaled" in caplog.text


def test_a_run_without_events_has_none(tmp_path: Path):
    assert list(read_events(tmp_path)) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"time": null, "attempt": 0, "kind": "scaled", "subject": "fleet"}',
        '{"time": 1.0, "attempt": "0", "kind": "scaled", "subject": "fleet"}',
        '{"time": 1.0, "attempt": 0, "kind": "scaled", "subject": null}',
        '{"time": 1.0, "attempt": 0, "kind": 3, "subject": "fleet"}',
        '{"time": 1.0, "kind": "scaled", "subject": "fleet"}',
        "[1]",
    ],
)
def test_a_line_that_is_no_event_is_left_out(tmp_path: Path, line: str):
    (tmp_path / EVENTS_FILE).write_text(line + "\n")
    EventLog(tmp_path, 0).note("scaled", "fleet")
    assert [(event.kind, event.subject) for event in read_events(tmp_path)] == [("scaled", "fleet")]
