"""Figures of the fleet, counted from a run's events: who serves, what failed, moved and healed.

EventLog -> FleetFigures -> fleet/... of every step
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from cluster.metrics.events import Event

HEALTHY, DEAD = "healthy", "dead"
STATES = (HEALTHY, "suspect", DEAD, "restarting", "stale", "retired")
"""States of a worker, as cluster/pool/worker_health.py names them."""
_FAILED = ("suspect", DEAD, "restarting")
COUNTED = {
    "worker_joined": "fleet/num_joined",
    "worker_left": "fleet/num_left",
    "request_moved": "fleet/num_moved",
    "group_dropped": "fleet/num_dropped",
    "learner_died": "fleet/num_learner_deaths",
    "learner_healed": "fleet/num_learner_heals",
    "reward_worker_restarted": "fleet/num_reward_restarts",
    "decode_helper_restarted": "fleet/num_decode_restarts",
    "stalled": "fleet/num_stalls",
}
"""Kind of an event -> figure that counts it."""


class FleetFigures:
    """Figures of the fleet; :meth:`observe` takes every event."""

    def __init__(
        self, before: Iterable[Event] = (), clock: Callable[[], float] = time.time
    ) -> None:
        """``before``: events of earlier attempts, which are counted and no more."""
        self._counts = Counter[str]()
        self._now = clock
        for event in before:
            self._count(event)
        self._states: dict[str, str] = {}
        self._dead_ranks = False
        self._epoch = 0
        self._lost_s, self._last = 0.0, clock()

    def observe(self, event: Event) -> None:
        """Take an event of now."""
        self._count_lost(event.time)
        self._count(event)
        if event.kind in ("worker_joined", "worker_state"):
            self._states[event.subject] = str(event.fields.get("state"))
        elif event.kind == "worker_left":
            self._states.pop(event.subject, None)
        elif event.kind in ("learner_died", "learner_healed"):
            self._dead_ranks = event.kind == "learner_died"
        self._epoch = max(self._epoch, int(event.fields.get("epoch", 0)))

    def begin_steps(self) -> None:
        """Begin to count lost time; what was lost before belongs to no step."""
        self._lost_s, self._last = 0.0, self._now()

    def of_step(self) -> dict[str, float]:
        """Metrics, with the time lost since the last call."""
        self._count_lost(self._now())
        lost_s, self._lost_s = self._lost_s, 0.0
        figures = {"fleet/lost_s": lost_s}
        if self._states:
            states = Counter(self._states.values())
            figures |= {f"fleet/state/{state}": float(states[state]) for state in STATES}
            figures["fleet/serving"] = float(states[HEALTHY])
            figures["fleet/epoch"] = float(self._epoch)
        return figures | {name: float(count) for name, count in sorted(self._counts.items())}

    def _count(self, event: Event) -> None:
        if event.kind == "worker_state" and event.fields.get("state") == DEAD:
            self._counts["fleet/num_worker_deaths"] += 1
            self._counts[f"fleet/deaths/{event.fields.get('cause')}"] += 1
        elif event.kind == "worker_state" and _is_restart(event):
            self._counts["fleet/num_restarts"] += 1
        elif event.kind == "worker_joined" and event.fields.get("cause") == "started":
            return  # with the run
        elif event.kind in COUNTED:
            self._counts[COUNTED[event.kind]] += int(event.fields.get("count", 1))

    def _count_lost(self, now: float) -> None:
        """Count the time up to ``now`` as lost, if training could not go on in it."""
        states = self._states.values()
        is_out = HEALTHY not in states and any(state in _FAILED for state in states)
        if is_out or self._dead_ranks:
            self._lost_s += max(0.0, now - self._last)
        self._last = max(now, self._last)


def _is_restart(event: Event) -> bool:
    return event.fields.get("state") == "restarting" and event.fields.get("before") == DEAD
