from pathlib import Path

from rich.console import Console

from cluster.metrics.events import EventLog
from cluster.status.fleet_table import workers_view
from tests.cluster.status.test_fleet_status import status


def text_of(run_dir: Path, *, live: bool) -> str:
    console = Console(width=80, record=True)
    console.print(workers_view(status(run_dir, live=live)))
    return console.export_text()


def test_workers_are_shown_in_conditions_with_the_last_events(tmp_path: Path):
    EventLog(tmp_path, 1).note("worker_state", "rollout-2", state="dead", cause="node_died")
    text = text_of(tmp_path, live=True)
    (row,) = [line for line in text.splitlines() if line.strip().startswith("rollout-1")]
    assert row.split()[1] == "stale"
    assert row.split()[4:7] == ["yes", "?", "no"]  # alive, not serving
    assert "rollout-2 is dead (node_died)" in text
    assert "newest weights 1.41, epoch 7" in text


def test_a_run_that_ended_says_so_first(tmp_path: Path):
    text = text_of(tmp_path, live=False)
    assert text.startswith("the run does not go on")
    assert "yes" not in text
