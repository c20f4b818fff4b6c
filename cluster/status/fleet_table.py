"""Rollout workers of a run in conditions, for a terminal."""

import time
from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.driver.units import format_duration
from cluster.pool.worker_health import HealthState
from cluster.status.event_text import describe_event
from cluster.status.fleet_status import FleetStatus, fleet_in_words

CONDITIONS = {"Alive": "alive", "WeightsCurrent": "current", "Serving": "serves"}
"""Condition -> head of its column."""
_COLOUR = {
    HealthState.HEALTHY: "green",
    HealthState.SUSPECT: "yellow",
    HealthState.DEAD: "red",
    HealthState.RESTARTING: "yellow",
    HealthState.STALE: "yellow",
    HealthState.RETIRED: "dim",
}
_CONDITION = {
    "True": Text("yes", style="green"),
    "False": Text("no", style="red"),
    "Unknown": Text("?", style="dim"),
}


def workers_view(fleet: FleetStatus) -> RenderableType:
    """Workers, one a line, and the last events."""
    now = time.time()
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    names = ("worker", "state", "for", *CONDITIONS.values(), "version", "restarts", "node", "cause")
    for name in names:
        table.add_column(name, no_wrap=name not in ("node", "cause"), overflow="fold")
    for worker in fleet.view.workers:
        holds = fleet.conditions(worker)
        table.add_row(
            worker.name,
            Text(worker.state.value, style=_COLOUR[worker.state]),
            format_duration(max(0.0, now - worker.since)),
            *(_CONDITION[holds.get(name, "Unknown")] for name in CONDITIONS),
            worker.version or "-",
            str(worker.restarts),
            "-" if worker.node is None else worker.node[:8],
            worker.cause,
        )
    return Group(*_heading(fleet), table, *_events(fleet, now))


def _heading(fleet: FleetStatus) -> Iterator[RenderableType]:
    view = fleet.view
    if not fleet.live:
        yield Text(
            "the run does not go on: this is how its workers stood at last, and none of them "
            "serves now",
            style="yellow",
        )
    elastic = ""
    if view.min_workers != view.max_workers:
        elastic = f" ({view.min_workers} to {view.max_workers} may be)"
    waiting = f", {view.num_waiting} requests wait" if view.num_waiting else ""
    failed = f", {view.num_failed} failed for good" if view.num_failed else ""
    yield Text(f"{fleet_in_words(view)}{elastic}{waiting}{failed}")
    yield Text(
        f"newest weights {view.version or '-'}, epoch {view.epoch}, "
        f"written {format_duration(fleet.age_s)} ago",
        style="dim",
    )


def _events(fleet: FleetStatus, now: float) -> Iterator[RenderableType]:
    if fleet.events:
        yield Text("last events", style="bold")
    for event in fleet.events:
        age = format_duration(max(0.0, now - event.time))
        yield Text(f"  {age:>7} ago  {describe_event(event)}")
