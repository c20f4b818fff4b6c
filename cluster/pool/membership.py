"""Membership of the pool: its workers' states, which weights may serve, and the epoch.

    reports (dispatcher, supervisor, weight sync) -> Membership -> Change -> dispatcher, event log

A worker serves only with weights that an update brought and the parity probe proved. While an
update goes on, either nobody serves until it has the new weights (a whole model), or all go on with
the old ones (an adapter).
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.config.fleet import FleetHealthConfig
from cluster.pool.clock import Clock
from cluster.pool.worker_health import Cause, Change, HealthState, Place, WorkerHealth
from wire.types import PolicyVersion


class Membership:
    """Members of the pool, by name, in the order in which they joined."""

    def __init__(self, limits: FleetHealthConfig, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._workers: dict[str, WorkerHealth] = {}
        self._serving: dict[str, WorkerHealth] = {}
        self._may_serve = set[PolicyVersion]()
        self._listeners: list[Callable[[Change], None]] = []
        self._between_updates = asyncio.Event()
        self._between_updates.set()
        self.newest: PolicyVersion | None = None
        """Version that was last sent, or is being sent."""
        self.epoch = 0
        """Number of changes of the set of engines that run: the same names in another epoch are
        another group."""

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call ``listener`` with each change, after it."""
        self._listeners.append(listener)

    # who there is

    def __getitem__(self, name: str) -> WorkerHealth:
        return self._workers[name]

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def workers(self) -> list[WorkerHealth]:
        """All members, also those that leave and are not gone yet."""
        return list(self._workers.values())

    @property
    def serving(self) -> dict[str, WorkerHealth]:
        """Members that get requests (not to be changed)."""
        return self._serving

    @property
    def running(self) -> list[str]:
        """Names of the members whose engines run."""
        return [worker.name for worker in self._workers.values() if worker.state.runs]

    @property
    def updatable(self) -> list[str]:
        """Names of the members that an update is sent to: none that catches up by itself just then,
        and none that would hold up the others: a suspect, or one that failed the last update and
        can get its weights by itself, unless there are only such."""
        able = [
            worker
            for worker in self._workers.values()
            if worker.state in (HealthState.HEALTHY, HealthState.STALE) and not worker.catches_up
        ]
        sound = [w for w in able if w.failed_updates == 0 or w.waits_for_update]
        return [worker.name for worker in sound or able]

    @property
    def staying(self) -> list[WorkerHealth]:
        """Members that do not leave."""
        return [w for w in self._workers.values() if w.state is not HealthState.RETIRED]

    @property
    def num_able(self) -> int:
        """Members that serve, or are only kept from it by an update that goes on."""
        workers = self._workers.values()
        return sum(w.state.serves or (w.state.runs and w.cause is Cause.UPDATE) for w in workers)

    # who comes and goes

    def join(self, name: str, cause: Cause = Cause.JOINED) -> WorkerHealth:
        """Add a worker whose engine is being started."""
        if name in self._workers:
            raise ValueError(f"{name} is a member already")
        worker = WorkerHealth(name, self._limits, self._clock.monotonic, self._note, cause)
        self._workers[name] = worker
        self._note(worker.joined)
        return worker

    def leave(self, name: str) -> None:
        """Forget a retired worker that has ended."""
        if self._workers[name].state is not HealthState.RETIRED:
            raise ValueError(f"{name} is {self._workers[name].state}; only a retired worker leaves")
        del self._workers[name]

    def started(self, name: str, place: Place) -> None:
        """Note that a worker's engine runs."""
        self._workers[name].started(place)

    # which weights may serve

    @property
    def is_updating(self) -> bool:
        """Whether an update of weights goes on."""
        return not self._between_updates.is_set()

    async def between_updates(self) -> None:
        """Wait until no update goes on."""
        await self._between_updates.wait()

    @contextmanager
    def updating(self, version: PolicyVersion, *, others_serve: bool = False) -> Iterator[None]:
        """Update of weights in the block; after it only ``version`` serves. ``others_serve``:
        meanwhile engines go on with the old weights until they have the new; else none serves
        before it has them."""
        self._between_updates.clear()
        self.newest = version
        self._allow({version} | (self._may_serve if others_serve else set()))
        try:
            yield
        finally:
            self._allow({version})
            self._between_updates.set()

    def suspend_all(self) -> None:
        """Let nobody serve until the next update: engines sleep."""
        self._allow(set())

    @property
    def is_asleep(self) -> bool:
        """Whether engines sleep until the next update, which wakes them: the learner has their
        memory."""
        return self.newest is not None and not self._may_serve

    def trust(self, version: PolicyVersion) -> None:
        """Take ``version``, which engines start with, for the newest: no update brought it."""
        self.newest = version
        self._allow({version})

    def proven(self, name: str, version: PolicyVersion) -> None:
        """Note that a worker has weights, by a completed update and the parity probe."""
        if name in self._workers:
            self._workers[name].proven(version, current=version in self._may_serve)

    def update_failed(self, name: str, cause: Cause = Cause.UPDATE_FAILED) -> None:
        """Note that a worker did not come to new weights."""
        if name in self._workers:
            self._workers[name].update_failed(cause)

    def _allow(self, versions: set[PolicyVersion]) -> None:
        self._may_serve = versions
        for worker in self._workers.values():
            if worker.current and worker.version not in versions:
                worker.outdated()

    def _note(self, change: Change) -> None:
        worker = self._workers[change.name]
        if change.state.serves:
            self._serving[change.name] = worker
        else:
            self._serving.pop(change.name, None)
        if change.state.runs != (change.before is not None and change.before.runs):
            self.epoch += 1
        for listener in self._listeners:
            listener(change)
