"""Gathers the report's facts about the fleet: what limits the steps, workers, what happened to
them.

    metrics.jsonl (limit/..., idle shares)  -> LimitFacts of each stage
    events.jsonl, fleet.json, timeline/     -> workers with their lives; events in words
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from cluster.metrics.events import Event, read_events
from cluster.metrics.step_timelines import timeline_files
from cluster.metrics.trace_file import read_facts, track_kind, track_order
from cluster.metrics.work_clock import LIMITS, RANK
from cluster.pool.worker_view import FleetView, WorkerView, read_fleet
from cluster.report.curves import StageCurves
from cluster.status.event_text import describe_event

LAST_STEPS = 20
"""Steps that the shares of a stage are means of."""
MAX_WORKERS = 64
MAX_EVENTS = 200
MAX_SPELLS = 200
"""Of one worker's life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFacts:
    """What limits the last steps of a stage.

    Example:
        LimitFacts(stage="grpo", steps=20, shares={"generation": 0.6, ...}, worker_idle=0.1,
                   rank_idle=0.6, effective=0.93)
    """

    stage: str
    steps: int
    """Last steps that the shares are means of."""
    shares: Mapping[str, float]
    worker_idle: float | None
    rank_idle: float | None
    effective: float | None
    """Effective training time ratio, at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """Spell of a worker in one state.

    Example:
        Spell(state="healthy", start=0.0, end=31.5, cause="weights_proven")
    """

    state: str
    start: float
    """Seconds since the first event of the attempt."""
    end: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLife:
    """Life of a worker in the newest attempt.

    Example:
        WorkerLife(name="rollout-1", state="healthy", restarts=1, idle=0.2, version="0.41",
                   node="10.0.0.7", spells=(...))
    """

    name: str
    state: str
    restarts: int
    idle: float | None
    """Share of its time without a request, over the steps of the last stage with a timeline."""
    version: str
    node: str
    spells: tuple[Spell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecord:
    """Facts about the fleet of a run."""

    limits: tuple[LimitFacts, ...]
    workers: tuple[WorkerLife, ...]
    ranks: dict[str, float]
    """Learner rank -> idle share, over the steps of the last stage with a timeline."""
    num_workers: int
    seconds: float
    """Length of the newest attempt, as far as lives are drawn."""
    attempt: int
    events: tuple[tuple[str, str], ...]
    """(UTC time, words), the last ``MAX_EVENTS``, without moved requests."""
    counts: dict[str, int]
    """Kind of an event -> how many, in all attempts."""


def fleet_record(path: Path, curves: Sequence[StageCurves]) -> FleetRecord | None:
    """Facts about the fleet of the run in ``path``; None for a run of an earlier version."""
    limits = tuple(facts for stage in curves if (facts := _limits(stage)) is not None)
    events, view = list(read_events(path)), read_fleet(path)
    if not limits and not events and view is None:
        return None
    attempt = max((event.attempt for event in events), default=0)
    own = [event for event in events if event.attempt == attempt]
    end = max([one.last_time for one in curves] + [event.time for event in own], default=0.0)
    idle = _idle(path, [facts.stage for facts in limits])
    workers = _workers(own, view, idle, end)
    shown = [event for event in events if event.kind != "request_moved"][-MAX_EVENTS:]
    return FleetRecord(
        limits=limits,
        workers=tuple(workers[:MAX_WORKERS]),
        ranks={track: share for track, share in idle.items() if track_kind(track) == RANK},
        num_workers=len(workers),
        seconds=max(0.0, end - own[0].time) if own else 0.0,
        attempt=attempt,
        events=tuple((_utc(event.time), describe_event(event)) for event in shown),
        counts=dict(Counter(event.kind for event in events)),
    )


def _limits(stage: StageCurves) -> LimitFacts | None:
    """Shares of a stage's last steps; None where it has none."""
    values = {name: _last(stage, f"limit/{name}") for name in LIMITS}
    steps = max(map(len, values.values()))
    if not steps:
        return None
    return LimitFacts(
        stage=stage.name,
        steps=steps,
        shares={name: fmean(known) if known else 0.0 for name, known in values.items()},
        worker_idle=_mean(_last(stage, "rollouter/idle_ratio")),
        rank_idle=_mean(_last(stage, "trainer/idle_ratio")),
        effective=next(reversed(_last(stage, "effective_training_time_ratio")), None),
    )


def _last(stage: StageCurves, name: str) -> list[float]:
    """Last values of a figure."""
    return [value for value in stage.kept.values.get(name, ()) if value is not None][-LAST_STEPS:]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _idle(path: Path, stages: Sequence[str]) -> dict[str, float]:
    """Idle share of each worker and rank over the steps of the last stage that has a timeline."""
    for stage in reversed(stages):
        for file in reversed(timeline_files(path, stage)):
            try:
                facts = read_facts(file)
                present, busy = facts["present_s"], facts["busy_s"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            return {
                track: max(0.0, 1 - busy.get(track, 0.0) / there)
                for track, there in present.items()
                if there > 0
            }
    return {}


def _workers(
    events: Sequence[Event], view: FleetView | None, idle: Mapping[str, float], end: float
) -> list[WorkerLife]:
    """Workers of an attempt by number; if they are many, those first to which most happened."""
    changes: dict[str, list[Event]] = {}
    for event in events:
        if event.kind in ("worker_joined", "worker_state", "worker_left"):
            changes.setdefault(event.subject, []).append(event)
    views = {worker.name: worker for worker in view.workers} if view else {}
    start = events[0].time if events else end
    names = sorted({*changes, *views}, key=track_order)
    lives = [_life(n, changes.get(n, []), views.get(n), idle.get(n), start, end) for n in names]
    if len(lives) > MAX_WORKERS:
        lives.sort(key=lambda life: -len(life.spells))
    return lives


def _life(
    name: str,
    changes: Sequence[Event],
    view: WorkerView | None,
    idle: float | None,
    start: float,
    end: float,
) -> WorkerLife:
    spells = tuple(_spells(changes, start, end))
    last = spells[-1].state if spells else ""
    restarts = sum(event.fields.get("cause") == "restart" for event in changes)
    return WorkerLife(
        name=name,
        state=view.state.value if view else "left" if _has_left(changes) else last,
        restarts=view.restarts if view else restarts,
        idle=idle,
        version=(view.version if view else None) or "",
        node=(view.node if view else None) or "",
        spells=spells[-MAX_SPELLS:],
    )


def _spells(changes: Sequence[Event], start: float, end: float) -> Iterable[Spell]:
    """Spells between changes of state; what was before the first and after the leave is none."""
    ends = [event.time for event in changes[1:]] + [end]
    for event, until in zip(changes, ends, strict=False):
        if event.kind != "worker_left":
            yield Spell(
                state=str(event.fields.get("state", "")),
                start=max(0.0, event.time - start),
                end=max(0.0, max(until, event.time) - start),
                cause=str(event.fields.get("cause", "")),
            )


def _has_left(changes: Sequence[Event]) -> bool:
    return bool(changes) and changes[-1].kind == "worker_left"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
