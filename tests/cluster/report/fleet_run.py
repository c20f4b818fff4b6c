"""A run whose fleet went through much: a worker that died, was restarted and joined; a heal. (No
test file.)"""

import json
from pathlib import Path
from typing import Any

from cluster.metrics.step_timelines import StepTimelines
from cluster.metrics.timeline import span
from cluster.pool.worker_health import HealthState
from cluster.pool.worker_view import FleetView, WorkerView, write_fleet
from cluster.run_dir import RunDir
from tests.cluster.report.builders import write_metrics

START = 1.7e9
EVENTS: list[tuple[float, str, str, dict[str, Any]]] = [
    (0, "worker_joined", "rollout-0", {"state": "restarting", "cause": "started"}),
    (0, "worker_joined", "rollout-1", {"state": "restarting", "cause": "started"}),
    (2, "worker_state", "rollout-0", {"state": "healthy", "cause": "weights_proven"}),
    (2, "worker_state", "rollout-1", {"state": "healthy", "cause": "weights_proven"}),
    (8, "worker_state", "rollout-1", {"state": "dead", "cause": "engine_died"}),
    (8, "request_moved", "clips/7.mp4", {"worker": "rollout-1", "why": "it died"}),
    (9, "worker_state", "rollout-1", {"state": "restarting", "cause": "restart"}),
    (12, "worker_state", "rollout-1", {"state": "healthy", "cause": "weights_proven"}),
    (14, "learner_died", "rank-0", {"cause": "its process died"}),
    (16, "learner_healed", "learner", {"seconds": 2.0}),
    (17, "worker_joined", "rollout-2", {"state": "restarting", "cause": "joined"}),
    (18, "worker_state", "rollout-2", {"state": "retired", "cause": "scaled_down"}),
    (19, "worker_left", "rollout-2", {"cause": "scaled_down"}),
]


def write_fleet_run(run: RunDir, *, attempt: int = 0) -> None:
    """Metrics of 20 steps, events, the last view of the workers, and one timeline."""
    figures = {
        "limit/generation": lambda step: 0.5 + step / 100,
        "limit/reward": 0.0,
        "limit/learner": lambda step: 0.4 - step / 100,
        "limit/weights": 0.08,
        "limit/other": 0.02,
        "rollouter/idle_ratio": 0.1,
        "rollouter/idle_ratio_max": 0.15,
        "trainer/idle_ratio": 0.6,
        "trainer/idle_ratio_max": 0.6,
        "fleet/serving": lambda step: 1.0 if 8 <= step < 12 else 2.0,
        "fleet/state/healthy": lambda step: 1.0 if 8 <= step < 12 else 2.0,
        "fleet/state/dead": lambda step: 1.0 if step == 8 else 0.0,
        "fleet/state/restarting": lambda step: 1.0 if 9 <= step < 12 else 0.0,
        "fleet/num_worker_deaths": lambda step: float(step >= 8),
        "fleet/num_moved": lambda step: float(step >= 8),
        "fleet/lost_s": lambda step: 2.0 * (step == 16),
        "effective_training_time_ratio": lambda step: 1.0 if step < 16 else 0.9,
    }
    write_metrics(run, "grpo", range(1, 21), attempt=attempt, **figures)
    with (run.path / "events.jsonl").open("w") as file:
        for after, kind, subject, fields in EVENTS:
            known = {"time": START + after, "attempt": attempt, "kind": kind, "subject": subject}
            file.write(json.dumps(known | fields) + "\n")
    workers = [
        WorkerView(
            name=f"rollout-{number}",
            state=HealthState.HEALTHY,
            since=START + 2,
            cause="weights_proven",
            restarts=number,
            version="0.20",
            node="node-a",
        )
        for number in range(2)
    ]
    view = FleetView(
        time=START + 20,
        attempt=attempt,
        epoch=5,
        desired=2,
        version="0.20",
        workers=tuple(workers),
    )
    write_fleet(run.path, view)
    write_timeline(run.path)


def write_timeline(run_dir: Path) -> None:
    """Timeline of the last step: rollout-0 had work for three quarters of it."""
    now = START
    timeline = StepTimelines(run_dir, 0, clock=lambda: now)
    with span(timeline, "driver", "gen"), span(timeline, "rollout-0", "answer"):
        now += 3
    for rank in range(2):
        with span(timeline, f"rank-{rank}", "train_step"):
            now += 0.5 * (rank + 1)
    timeline.end_step("grpo", 20, ["rollout-0", "rollout-1"])
    timeline.close()
