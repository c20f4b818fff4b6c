from pathlib import Path

from cluster.metrics.events import EventLog, read_events
from cluster.metrics.lost_processes import note_lost_processes


def test_lost_processes_of_rewards_and_decoders_are_events(tmp_path: Path):
    figures = {
        "reward/judge/num_lost": 2.0,
        "reward/length/num_lost": 0.0,
        "reward/judge/num_started": 2.0,
        "video/decoders_lost": 1.0,
    }
    note_lost_processes(EventLog(tmp_path, 0), figures, step=7)
    events = [(event.kind, event.subject, event.fields) for event in read_events(tmp_path)]
    assert events == [
        ("reward_worker_restarted", "judge", {"count": 2, "step": 7}),
        ("decode_helper_restarted", "decoders", {"count": 1, "step": 7}),
    ]
