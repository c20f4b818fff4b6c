"""Status of a run's rollout workers, from fleet.json and events.jsonl.

A file stays as it was when its writer dies: conditions of a run that does not go on are unknown.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.driver.units import format_duration
from cluster.metrics.events import Event, read_events
from cluster.metrics.work_clock import LIMITS
from cluster.pool.worker_health import Cause, HealthState
from cluster.pool.worker_view import FleetView, WorkerView, read_fleet
from cluster.status.event_text import describe_event

Truth = Literal["True", "False", "Unknown"]

_ROUTINE = ("request_moved",)
"""Kinds of which there may be very many: counted, not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """Status of the rollout workers of a run.

    Example:
        FleetStatus(view=view, live=True, age_s=2.0, events=())
    """

    view: FleetView
    live: bool
    """Whether the run goes on: else nothing serves, whatever the file says."""
    age_s: float
    """Since the file was written."""
    events: tuple[Event, ...]
    """The last events, without moved requests."""

    @property
    def num_serving(self) -> int:
        """Workers that get requests now."""
        workers = self.view.workers
        return sum(worker.state is HealthState.HEALTHY for worker in workers) if self.live else 0

    def conditions(self, worker: WorkerView) -> dict[str, Truth]:
        """Conditions of a worker now; unknown where the run does not go on."""
        if not self.live:
            return {one.type: "Unknown" for one in worker.conditions}
        return {one.type: "True" if one.status else "False" for one in worker.conditions}

    def to_plain(self) -> dict[str, Any]:
        """For JSON: what `deepintuit workers --json` prints."""
        plain = asdict(self.view)
        workers = zip(plain["workers"], self.view.workers, strict=True)
        return {
            "live": self.live,
            "age_s": round(self.age_s, 1),
            "serving": self.num_serving,
            **plain,
            "workers": [own | {"conditions": self._to_plain(worker)} for own, worker in workers],
            "events": [
                {"time": e.time, "kind": e.kind, "subject": e.subject, **e.fields}
                for e in self.events
            ],
        }

    def _to_plain(self, worker: WorkerView) -> list[dict[str, Any]]:
        now = self.conditions(worker)
        return [
            {
                "type": one.type,
                "status": now[one.type],
                "since": one.since,
                "reason": worker.cause if self.live else "run_ended",
            }
            for one in worker.conditions
        ]


def read_fleet_status(
    run_dir: Path, *, live: bool, num_events: int, now: float | None = None
) -> FleetStatus | None:
    """Status of a run's workers; None for a run without fleet.json. ``num_events``: of the last
    events, so many."""
    if (view := read_fleet(run_dir)) is None:
        return None
    shown = (event for event in read_events(run_dir) if event.kind not in _ROUTINE)
    return FleetStatus(
        view=view,
        live=live,
        age_s=max(0.0, (time.time() if now is None else now) - view.time),
        events=tuple(deque(shown, maxlen=num_events)),
    )


def fleet_in_words(view: FleetView) -> str:
    """Workers that serve, the states of the others, and what they went through."""
    updating = [worker.cause == Cause.UPDATE for worker in view.workers].count(True)
    states = [worker.state for worker in view.workers if worker.cause != Cause.UPDATE]
    parts = [f"{states.count(HealthState.HEALTHY)} of {view.desired} workers serve"]
    if updating:
        parts.append(f"{updating} take new weights")
    parts += [
        f"{states.count(state)} {state.value}"
        for state in HealthState
        if state is not HealthState.HEALTHY and state in states
    ]
    if restarts := sum(worker.restarts for worker in view.workers):
        parts.append(f"{restarts} restarts")
    if view.num_moved:
        parts.append(f"{view.num_moved} requests moved")
    return ", ".join(parts)


def limits_in_words(figures: Mapping[str, float | None]) -> str:
    """What limits a step, the largest share first: ``generation 62%, learner 30%``; empty where its
    figures do not say."""
    shares = {name: figures.get(f"limit/{name}") or 0.0 for name in LIMITS}
    known = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in known if share >= 0.005)


def fleet_line(run_dir: Path, now: float) -> str:
    """Workers of a run that goes on, and the last that happened to them, in words; empty without
    fleet.json."""
    fleet = read_fleet_status(run_dir, live=True, num_events=1, now=now)
    if fleet is None:
        return ""
    ages = [format_duration(max(0.0, now - event.time)) for event in fleet.events]
    last = [
        f"{describe_event(event)}, {age} ago" for event, age in zip(fleet.events, ages, strict=True)
    ]
    return "; ".join([fleet_in_words(fleet.view), *last])
