"""Health of a rollout worker: a state machine that knows neither Ray nor the time.

    RESTARTING -> STALE -> HEALTHY <-> SUSPECT          every state but RETIRED -> DEAD
         ^          ^---------+-----------+             every state -> RETIRED, for good
         +-- DEAD

RESTARTING  its engine is being started              started() -> STALE
STALE       its engine runs, weights not proven      proven() -> HEALTHY, by nothing else
HEALTHY     it serves                                a failed probe or request -> SUSPECT
                                                     newer weights come -> STALE
SUSPECT     no new requests                          probes answered -> HEALTHY, or STALE
                                                     more probes fail -> DEAD
DEAD        nothing runs                             restarting() -> RESTARTING

Failed probes, requests and updates are three streaks, each ended by its own success alone: an
engine that answers probes and fails requests dies all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from cluster.config.fleet import FleetHealthConfig
from wire.errors import GenerationError, ParityError, WeightUpdateError, WorkerDied
from wire.types import PolicyVersion

Condition = Literal["Alive", "WeightsCurrent", "Serving"]
"""Condition of a worker: its engine runs; its weights are proven and may serve; it gets
requests."""


class HealthState(StrEnum):
    """State of a worker. Only a HEALTHY one gets requests."""

    HEALTHY = "healthy"
    """It serves: its engine answers, and its weights are proven to be the newest."""
    SUSPECT = "suspect"
    """A probe or a request failed: no new request until a probe is answered."""
    DEAD = "dead"
    """Its actor, its engine or its node is gone, or its engine answers nothing."""
    RESTARTING = "restarting"
    """Its engine is being started, for the first time or anew."""
    STALE = "stale"
    """Its engine runs, with weights that are not proven to be the newest."""
    RETIRED = "retired"
    """It left for good: scaled down, or its restarts are used up."""

    @property
    def serves(self) -> bool:
        """Whether a worker gets requests."""
        return self is HealthState.HEALTHY

    @property
    def runs(self) -> bool:
        """Whether a worker's engine runs and may get new weights."""
        return self in (HealthState.HEALTHY, HealthState.SUSPECT, HealthState.STALE)

    @property
    def use(self) -> int:
        """How near a worker is to serving: who is too many leaves first where this is least."""
        return _BY_USE.index(self)


_BY_USE = (
    HealthState.RETIRED,
    HealthState.DEAD,
    HealthState.RESTARTING,
    HealthState.STALE,
    HealthState.SUSPECT,
    HealthState.HEALTHY,
)


class Cause(StrEnum):
    """Why a worker's state changed."""

    STARTED = "started"
    JOINED = "joined"
    WEIGHTS_PROVEN = "weights_proven"
    UPDATE = "update"
    """Newer weights come, or came without it: no fault."""
    PROBE_ANSWERED = "probe_answered"
    PROBE_FAILED = "probe_failed"
    REQUEST_FAILED = "request_failed"
    ACTOR_DIED = "actor_died"
    ENGINE_DIED = "engine_died"
    NODE_DIED = "node_died"
    OUT_OF_MEMORY = "out_of_memory"
    START_FAILED = "start_failed"
    NO_ROOM = "no_room"
    """The cluster has no place for it now: no fault of its own."""
    UPDATE_FAILED = "update_failed"
    PARITY_FAILED = "parity_failed"
    RESTART = "restart"
    SCALED_DOWN = "scaled_down"
    BUDGET_SPENT = "budget_spent"


class WorkerLost(WorkerDied):
    """A worker whose actor, engine or node is gone."""

    def __init__(self, message: str, why: Cause = Cause.ACTOR_DIED) -> None:
        super().__init__(message)
        self.why = why


FAILURES = (WorkerDied, GenerationError, WeightUpdateError, ParityError, TimeoutError)
"""Errors of a call to a worker that are the worker's; any other is a fault of this program.
DeadlineExceeded is a TimeoutError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Change of a worker's state or of its cause.

    Example:
        Change(name="rollout-3", before=HealthState.SUSPECT, cause_before=Cause.PROBE_FAILED,
               state=HealthState.DEAD, cause=Cause.PROBE_FAILED, version=None)
    """

    name: str
    before: HealthState | None
    """None: it joined."""
    cause_before: Cause | None
    state: HealthState
    cause: Cause
    version: PolicyVersion | None
    """Weights that the worker was last proven to have."""

    @property
    def is_routine(self) -> bool:
        """Whether it belongs to an update of weights that went well."""
        ends = self.cause_before is Cause.UPDATE and self.state is HealthState.HEALTHY
        return self.cause is Cause.UPDATE or ends

    @property
    def ends_requests(self) -> bool:
        """Whether what the worker was asked is answered by others: its engine is gone, or paused
        until an update succeeds. A retired worker finishes first."""
        failed = (Cause.UPDATE_FAILED, Cause.PARITY_FAILED)
        return self.state is HealthState.DEAD or self.cause in failed


CATCH_UPS = 2
"""Times that a worker gets the newest weights by itself and an update overtakes it; then it waits
for the next."""

_S = HealthState
_NEXT = {
    _S.RESTARTING: {_S.STALE, _S.DEAD, _S.RETIRED},
    _S.STALE: {_S.STALE, _S.HEALTHY, _S.DEAD, _S.RETIRED},
    _S.HEALTHY: {_S.SUSPECT, _S.STALE, _S.DEAD, _S.RETIRED},
    _S.SUSPECT: {_S.HEALTHY, _S.STALE, _S.DEAD, _S.RETIRED},
    _S.DEAD: {_S.RESTARTING, _S.RETIRED},
    _S.RETIRED: set[HealthState](),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker runs.

    Example:
        Place(node="3f2c", pid=4711)
    """

    node: str
    """Ray's id of the node, or its address."""
    pid: int
    """Process of its actor."""


class WorkerHealth:
    """Health of one worker. Reports that come too late for the state it is in change nothing."""

    def __init__(
        self,
        name: str,
        limits: FleetHealthConfig,
        now: Callable[[], float],
        changed: Callable[[Change], None],
        cause: Cause = Cause.JOINED,
    ) -> None:
        """``now``: monotonic seconds; ``changed`` is told of each change."""
        self.name, self._limits, self._now, self._changed = name, limits, now, changed
        self.state, self.cause = _S.RESTARTING, cause
        self.since = self.last_heard = now()
        """When it came into its state, and when its engine last answered."""
        self.last_probed = float("-inf")
        """When it was last probed."""
        self.flipped: dict[Condition, float] = dict.fromkeys(get_args(Condition), self.since)
        """When each condition last changed."""
        self.version: PolicyVersion | None = None
        """Weights that it was last proven to have since its start."""
        self.current = False
        """Whether these weights may serve now."""
        self.overtaken = 0
        """Times that an update overtook it while it got the newest weights by itself, since its
        state last changed."""
        self.catches_up = False
        """Whether it just then gets the newest weights by itself."""
        self.place: Place | None = None
        self.restarts = 0
        self.failed_probes = self.failed_requests = self.failed_updates = 0
        """In a row, each."""
        self._answered_probes = 0

    @property
    def joined(self) -> Change:
        """The change that it was made by."""
        return self._change(None, None)

    @property
    def waits_for_update(self) -> bool:
        """Whether it is to get its weights by the next update of all: it cannot get them by itself,
        or updates overtook that too often."""
        return self.overtaken >= CATCH_UPS

    def restarting(self) -> None:
        """Note that its engine is being started anew."""
        if self.state is _S.DEAD:
            self.restarts += 1
            self._to(_S.RESTARTING, Cause.RESTART)

    def started(self, place: Place) -> None:
        """Note that its engine runs."""
        if self.state is _S.RESTARTING:
            self.place, self.last_heard = place, self._now()
            self._to(_S.STALE, Cause.STARTED)

    def died(self, cause: Cause) -> None:
        """Note that it is gone."""
        if self.state not in (_S.DEAD, _S.RETIRED):
            self.version = self.place = None
            self._hold(current=False)
            self.failed_probes = self.failed_requests = self.failed_updates = 0
            self._to(_S.DEAD, cause)

    def retire(self, cause: Cause) -> None:
        """Let it leave for good."""
        if self.state is not _S.RETIRED:
            self._to(_S.RETIRED, cause)

    def proven(self, version: PolicyVersion, *, current: bool) -> None:
        """Note that an update ended and the parity probe proved it. ``current``: these weights may
        serve now."""
        if not self.state.runs:
            return
        self.version, self.last_heard = version, self._now()
        self.failed_probes = self.failed_requests = self.failed_updates = 0
        if not current:
            self.outdated()
            return
        self._hold(current=True)
        if self.state is not _S.HEALTHY:
            self._to(_S.HEALTHY, Cause.WEIGHTS_PROVEN)

    def outdated(self) -> None:
        """Note that its weights may not serve any more."""
        self._hold(current=False)
        if self.state is _S.HEALTHY:
            self._to(_S.STALE, Cause.UPDATE)

    def update_failed(self, cause: Cause = Cause.UPDATE_FAILED) -> None:
        """Note that it did not come to new weights."""
        if self.state.runs:
            self.failed_updates += 1
            self._hold(current=False)
            many = self.failed_updates >= self._limits.unhealthy_threshold
            self.died(cause) if many else self._to(_S.STALE, cause)

    def probe_answered(self) -> None:
        """Note that its engine wrote a token."""
        if not self.state.runs:
            return
        self.failed_probes, self.last_heard = 0, self._now()
        self._answered_probes += 1
        if self.state is _S.SUSPECT and self._answered_probes >= self._limits.healthy_threshold:
            self._to(_S.HEALTHY if self.current else _S.STALE, Cause.PROBE_ANSWERED)

    def probe_failed(self) -> None:
        """Note that its engine did not write a token in time."""
        if self.state not in (_S.HEALTHY, _S.SUSPECT):
            return
        self.failed_probes, self._answered_probes = self.failed_probes + 1, 0
        self._suspected(self.failed_probes, Cause.PROBE_FAILED)

    def request_answered(self) -> None:
        """Note that its engine answered a request."""
        if self.state.runs:
            self.failed_requests, self.last_heard = 0, self._now()

    def request_failed(self) -> None:
        """Note that a request failed, and its engine runs. Those that fail while it is suspected
        were sent before: they are the same incident."""
        if self.state is _S.HEALTHY:
            self.failed_requests, self._answered_probes = self.failed_requests + 1, 0
            self._suspected(self.failed_requests, Cause.REQUEST_FAILED)

    def _hold(self, *, current: bool) -> None:
        if current != self.current:
            self.current, self.flipped["WeightsCurrent"] = current, self._now()

    def _suspected(self, failures: int, cause: Cause) -> None:
        if failures >= self._limits.unhealthy_threshold:
            self.died(cause)
        elif self.state is _S.HEALTHY:
            self._to(_S.SUSPECT, cause)

    def _to(self, state: HealthState, cause: Cause) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"{self.name}: no worker goes from {self.state} to {state} ({cause})")
        before, cause_before = self.state, self.cause
        self.state, self.cause, self.since, self.overtaken = state, cause, self._now(), 0
        if before.runs != state.runs:
            self.flipped["Alive"] = self.since
        if before.serves != state.serves:
            self.flipped["Serving"] = self.since
        self._changed(self._change(before, cause_before))

    @property
    def conditions(self) -> dict[Condition, bool]:
        """Whether its engine runs, has proven weights that may serve, and gets requests."""
        return {
            "Alive": self.state.runs,
            "WeightsCurrent": self.current,
            "Serving": self.state.serves,
        }

    def _change(self, before: HealthState | None, cause_before: Cause | None) -> Change:
        return Change(
            name=self.name,
            before=before,
            cause_before=cause_before,
            state=self.state,
            cause=self.cause,
            version=self.version,
        )


def cause_of(error: BaseException) -> Cause:
    """Cause of a worker's death or failed update, by its error."""
    match error:
        case WorkerLost():
            return error.why
        case WorkerDied():
            return Cause.ACTOR_DIED
        case ParityError():
            return Cause.PARITY_FAILED
        case WeightUpdateError():
            return Cause.UPDATE_FAILED
        case _:
            return Cause.REQUEST_FAILED
