"""Jobs of the workers: start, catch up, probe, clear, leave; each worker has one at a time.

    Supervisor (which job is due) -> WorkerJobs -> Fleet, within a deadline -> WorkerHealth

A worker that hangs holds up its own job alone. An error that is not a worker's is a fault of this
program: it is kept, and ends the run.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from cluster.metrics.events import Events
from cluster.pool.clock import Clock
from cluster.pool.dispatch import Dispatcher
from cluster.pool.fleet import Fleet, NoRoom
from cluster.pool.membership import Membership
from cluster.pool.restart_budget import RestartBudget
from cluster.pool.settings import PoolSettings
from cluster.pool.worker_health import (
    CATCH_UPS,
    FAILURES,
    Cause,
    Change,
    WorkerHealth,
    cause_of,
)
from wire.errors import DeadlineExceeded, WorkerDied

T = TypeVar("T")

STOP_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)


class WorkerJobs:
    """Does the jobs of workers, in tasks, and reports what came of them to the workers' health."""

    def __init__(
        self,
        members: Membership,
        dispatcher: Dispatcher,
        fleet: Fleet,
        budget: RestartBudget,
        settings: PoolSettings,
        clock: Clock,
        events: Events,
        ended: Callable[[], None],
    ) -> None:
        """``ended`` is called at the end of each job."""
        self._members, self._dispatcher, self._fleet = members, dispatcher, fleet
        self._budget, self._settings, self._clock, self._events = budget, settings, clock, events
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended = ended
        self.cleared = set[str]()
        """Dead members of which nothing is left."""
        self.errors: dict[str, BaseException] = {}
        """Last error of each member, until it serves again."""
        self.faults: list[BaseException] = []
        """Errors that are no worker's."""
        members.listen(self._on_change)

    def __contains__(self, name: str) -> bool:
        """Whether a worker has a job."""
        return name in self._tasks

    def begin(self, name: str, job: Coroutine[Any, Any, None]) -> None:
        """Begin a job of a worker, or of the pool, that has none."""
        assert name not in self._tasks, f"{name} has a job already"
        self._tasks[name] = task = asyncio.get_running_loop().create_task(job, name=name)
        task.add_done_callback(lambda done: self._note_end(name, done))

    def cancel(self, name: str) -> None:
        """Cancel a worker's job, if it has one."""
        if (task := self._tasks.get(name)) is not None:
            task.cancel()

    async def stop(self) -> None:
        """Cancel all jobs. Workers are left as they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, worker: WorkerHealth) -> None:
        """Place a worker and start its engine."""
        self.cleared.discard(worker.name)
        timeout_s = self._settings.start_timeout_s
        try:
            place = await _within(timeout_s, self._fleet.start(worker.name), worker, "to start")
        except NoRoom as error:
            self._warn(worker, "waits for room", error)
            if worker.restarts:
                self._budget.give_back(worker.name)
            worker.died(Cause.NO_ROOM)
        except FAILURES as error:
            self._warn(worker, "did not start", error)
            worker.died(Cause.START_FAILED)
        else:
            worker.started(place)

    async def catch_up(self, worker: WorkerHealth) -> None:
        """Bring the newest weights to one worker, while the others go on."""
        timeout_s, worker.catches_up = self._settings.update_timeout_s, True
        try:
            call = self._fleet.catch_up(worker.name)
            version = await _within(timeout_s, call, worker, "to get the newest weights")
        except WorkerDied as error:
            self._warn(worker, "is lost", error)
            worker.died(cause_of(error))
        except FAILURES as error:
            self._warn(worker, "did not get the newest weights", error)
            worker.update_failed(cause_of(error))
        else:
            worker.overtaken += 1 if version is not None else CATCH_UPS
            if version is not None:
                self._members.proven(worker.name, version)
        finally:
            worker.catches_up = False

    async def probe(self, worker: WorkerHealth) -> None:
        """Let a worker's engine write a token."""
        asked, timeout_s = self._clock.monotonic(), self._settings.health.probe_timeout_s
        worker.last_probed = asked
        try:
            await _within(timeout_s, self._fleet.probe(worker.name), worker, "to write a token")
        except WorkerDied as error:
            self._warn(worker, "is lost", error)
            worker.died(cause_of(error))
        except FAILURES as error:
            if worker.since <= asked:  # else an update came meanwhile, and paused the engine
                worker.probe_failed()
                self._warn(worker, "failed a probe", error)
        else:
            worker.probe_answered()

    async def clear(self, worker: WorkerHealth) -> None:
        """End what is left of a dead worker: processes that hang, its place."""
        await self._stop(worker)
        self.cleared.add(worker.name)

    async def leave(self, worker: WorkerHealth) -> None:
        """Let a retired worker finish what it has in work, or hand it back; then end it."""
        try:
            async with asyncio.timeout(self._settings.health.drain_timeout_s):
                await self._dispatcher.emptied(worker.name)
        except TimeoutError:
            self._dispatcher.hand_back(worker.name, worker.cause)
        await self._members.between_updates()  # a collective transfer waits for all its members
        await self._stop(worker)
        self._members.leave(worker.name)
        self._dispatcher.forget(worker.name)
        self._budget.forget(worker.name)
        self.cleared.discard(worker.name)
        self._events.note("worker_left", worker.name, cause=worker.cause)

    async def _stop(self, worker: WorkerHealth) -> None:
        try:
            await _within(STOP_TIMEOUT_S, self._fleet.stop(worker.name), worker, "to end")
        except FAILURES as error:
            self._warn(worker, "did not end as asked", error)

    def _warn(self, worker: WorkerHealth, what: str, error: BaseException) -> None:
        log.warning("%s %s: %s", worker.name, what, error)
        self.errors[worker.name] = error

    def _note_end(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(error)
        self._ended()

    def _on_change(self, change: Change) -> None:
        if change.state.serves:
            self.errors.pop(change.name, None)


async def _within(timeout_s: float, call: Awaitable[T], worker: WorkerHealth, what: str) -> T:
    """Result of a call to a worker. Raises DeadlineExceeded that names the worker."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except DeadlineExceeded:
        raise
    except TimeoutError as error:
        raise DeadlineExceeded(f"waited {timeout_s:.0f} s for {worker.name} {what}") from error
