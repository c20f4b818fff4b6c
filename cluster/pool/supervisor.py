"""Supervisor of the pool: probes, restarts, joins and leaves; it looks at all workers each second.

    look -> number wanted -> join | leave
         -> each worker, by its state:  DEAD              clear; restart, in its budget, or retire
                                        STALE             catch up with the newest weights
                                        HEALTHY, SUSPECT  probe when it is due
                                        RETIRED           drain, stop, forget
         -> too few able, for too long: the end

A look waits for nothing: what takes time is a job (cluster/pool/worker_jobs.py).
"""

import asyncio
import logging
from collections.abc import Callable

from cluster.metrics.events import Events
from cluster.pool.backoff import Backoff
from cluster.pool.clock import Clock
from cluster.pool.dispatch import Dispatcher, NoWorkers
from cluster.pool.fleet import Fleet
from cluster.pool.membership import Membership
from cluster.pool.restart_budget import RestartBudget
from cluster.pool.settings import PoolSettings
from cluster.pool.worker_health import FAILURES, Cause, Change, HealthState, WorkerHealth
from cluster.pool.worker_jobs import STOP_TIMEOUT_S, WorkerJobs
from wire.errors import DeadlineExceeded

LOOK_EVERY_S = 1.0
SHOW_EVERY_S = 10.0
_GATHER_S = 0.05  # changes that come together are one look's
_GATHER_S_PER_WORKER = 0.001  # a look costs some 10 us a worker: at most a hundredth of the driver
_ROOM_EVERY_S = 5.0  # asked of the cluster while anybody waits for room
_PLACING = "place workers"  # the pool's own job

log = logging.getLogger(__name__)


class Supervisor:
    """Keeps the wanted number of workers alive and up to date.

    Example:
        supervisor = Supervisor(members, dispatcher, fleet, settings, LoopClock(), events)
        await supervisor.start()
        task = asyncio.create_task(supervisor.run())
        ...
        await supervisor.stop()
    """

    def __init__(
        self,
        members: Membership,
        dispatcher: Dispatcher,
        fleet: Fleet,
        settings: PoolSettings,
        clock: Clock,
        events: Events,
        *,
        asked: Callable[[], int | None] = lambda: None,
        show: Callable[[], None] = lambda: None,
    ) -> None:
        """``asked``: number of workers that the user asks for, read each second; none: no request.
        ``show`` is called within a second of a change, and else every ``SHOW_EVERY_S``."""
        self._members, self._dispatcher, self._fleet = members, dispatcher, fleet
        self._settings, self._clock, self._events = settings, clock, events
        self._asked, self._show = asked, show
        self._wake = asyncio.Event()
        self._budget, health = RestartBudget(settings.health), settings.health
        self._backoff = Backoff(base_s=health.backoff_base_s, max_s=health.max_backoff_s)
        self._jobs = WorkerJobs(
            members, dispatcher, fleet, self._budget, settings, clock, events, self._wake.set
        )
        self._next_index = 0
        self._request: int | None = None
        self._given_up = 0  # members whose restarts are used up, since the last request
        self._room_asked = float("-inf")
        self._short_since: float | None = None
        self._has_news, self._num_shown = False, 0
        self._heard_at = self._shown_at = float("-inf")
        members.listen(self._on_change)

    @property
    def desired(self) -> int:
        """Number of workers wanted: what the user asks for, or else as many as may be."""
        settings = self._settings
        wanted = settings.default_workers if self._request is None else self._request
        return min(max(wanted, settings.min_workers), settings.max_workers)

    async def start(self) -> None:
        """Start the first workers. Returns once as many serve as the run starts with. Raises the
        error of one that did not start, if too few are left, and DeadlineExceeded."""
        settings, members = self._settings, self._members
        self._fleet.request(self.desired)
        for _ in range(settings.num_workers):
            self._join(Cause.STARTED)
        deadline = self._clock.monotonic() + settings.start_timeout_s
        while len(members.serving) < settings.start_with:
            left = [worker for worker in members.staying if not _has_failed(worker)]
            if len(left) < settings.start_with:
                raise next(iter(self._jobs.errors.values()))
            if self._clock.monotonic() > deadline:
                late = ", ".join(worker.name for worker in left if not worker.state.serves)
                raise DeadlineExceeded(
                    f"waited {settings.start_timeout_s:.0f} s for {late} to serve"
                )
            for worker in left:
                self._tend(worker)
            self._seek_room()
            await self._woken()
            self._raise_faults()

    async def run(self) -> None:
        """Look after the workers, until cancelled. When it fails, all requests do."""
        try:
            while True:
                self.look()
                await self._woken()
        except Exception as error:
            self._dispatcher.end(str(error))
            raise

    async def stop(self) -> None:
        """End all jobs. Workers are left as they are."""
        await self._jobs.stop()

    def look(self) -> None:
        """Look at all workers once, and begin what is due. Raises NoWorkers."""
        self._raise_faults()
        self._hear_request()
        self._shrink()
        for worker in self._members.workers:
            self._tend(worker)
        self._seek_room()
        self._refuse_too_few()
        self._show_news()

    def _tend(self, worker: WorkerHealth) -> None:
        """Begin a worker's next job, if it has none and one is due."""
        if worker.name in self._jobs:
            return
        now, jobs = self._clock.monotonic(), self._jobs
        match worker.state:
            case HealthState.RETIRED:
                jobs.begin(worker.name, jobs.leave(worker))
            case HealthState.DEAD if worker.name not in jobs.cleared:
                jobs.begin(worker.name, jobs.clear(worker))
            case HealthState.DEAD if self._budget.is_spent(worker.name, now):
                self._given_up += 1
                worker.retire(Cause.BUDGET_SPENT)
            case HealthState.DEAD if self._may_restart(worker, now) and not _needs_room(worker):
                self._restart(worker)
            case HealthState.STALE if self._may_catch_up(worker, now):
                jobs.begin(worker.name, jobs.catch_up(worker))
            case state if state.runs and self._probe_due(worker, now):
                jobs.begin(worker.name, jobs.probe(worker))

    def _may_restart(self, worker: WorkerHealth, now: float) -> bool:
        """Whether a dead worker may start again: not while others sleep, for the learner has the
        memory that it would take."""
        is_due = worker.name in self._jobs.cleared and self._budget.due(
            worker.name, worker.since, now
        )
        return is_due and not self._members.is_asleep

    def _may_catch_up(self, worker: WorkerHealth, now: float) -> bool:
        """Whether a worker lacks weights that it can get now. One that has the newest and does not
        serve sleeps until the next update."""
        members = self._members
        lacks = members.newest is not None and worker.version != members.newest
        waited = now >= worker.since + self._backoff.wait_s(worker.failed_updates)
        return lacks and waited and not worker.waits_for_update and not members.is_updating

    def _probe_due(self, worker: WorkerHealth, now: float) -> bool:
        """Whether nothing was heard of a worker for a while. One whose request failed is probed at
        once. A stale one may be paused or asleep: the probe only shows whether it is there."""
        interval_s = self._settings.health.probe_interval_s
        if worker.state is HealthState.SUSPECT:  # also during an update, which leaves it out
            accused = worker.cause is Cause.REQUEST_FAILED and worker.last_probed < worker.since
            return accused or now - worker.last_probed >= interval_s
        quiet = now - max(worker.last_heard, worker.last_probed) >= interval_s
        return quiet and not self._members.is_updating

    # the number of workers

    def _hear_request(self) -> None:
        """Take up the number of workers that the user asks for."""
        now = self._clock.monotonic()
        if now < self._heard_at + LOOK_EVERY_S:
            return
        self._heard_at, asked = now, self._asked()
        if asked is None or asked == self._request:
            return
        self._request, self._given_up, self._has_news = asked, 0, True
        self._fleet.request(self.desired)
        self._events.note("scaled", "fleet", workers=self.desired, asked=asked)

    def _show_news(self) -> None:
        now = self._clock.monotonic()
        has_news = self._has_news or len(self._members) != self._num_shown
        if now >= self._shown_at + (LOOK_EVERY_S if has_news else SHOW_EVERY_S):
            self._has_news, self._num_shown, self._shown_at = False, len(self._members), now
            self._show()

    def _shrink(self) -> None:
        """Retire the members that are too many: those first that are of least use, and the youngest
        of them."""
        staying = self._members.staying
        staying.reverse()
        staying.sort(key=lambda worker: worker.state.use)
        for worker in staying[: max(0, len(staying) - self.desired)]:
            self._jobs.cancel(worker.name)
            worker.retire(Cause.SCALED_DOWN)

    def _seek_room(self) -> None:
        """Ask the cluster for room now and then, while anybody waits for it."""
        now = self._clock.monotonic()
        waits = not self._members.is_asleep and (self._num_missing > 0 or self._homeless())
        if waits and _PLACING not in self._jobs and now >= self._room_asked + _ROOM_EVERY_S:
            self._room_asked = now
            self._jobs.begin(_PLACING, self._place())

    async def _place(self) -> None:
        """Start workers where there is room: first those that lost their place, then new ones."""
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                room = await self._fleet.room()
        except FAILURES as error:
            log.warning("the cluster does not answer what room it has: %s", error)
            return
        homeless = self._homeless()[:room]
        for worker in homeless:
            self._restart(worker)
        for _ in range(min(room - len(homeless), self._num_missing)):
            self._join(Cause.JOINED)

    @property
    def _num_missing(self) -> int:
        """Members wanted beside those there are; none in place of one that was given up."""
        return max(0, self.desired - self._given_up - len(self._members.staying))

    def _homeless(self) -> list[WorkerHealth]:
        """Dead members that wait for room and may be restarted."""
        now = self._clock.monotonic()
        return [
            worker
            for worker in self._members.workers
            if _needs_room(worker) and self._may_restart(worker, now)
        ]

    def _refuse_too_few(self) -> None:
        """Raise NoWorkers if too few members are able for too long, or no other will ever be."""
        settings, now, members = self._settings, self._clock.monotonic(), self._members
        able = members.num_able
        if able >= settings.min_workers or self._short_since is None or members.is_asleep:
            self._short_since = now
        hopeless = len(members.staying) + self._num_missing < settings.min_workers
        if hopeless or now - self._short_since > settings.start_timeout_s:
            states = [
                f"{worker.name} {worker.state} ({worker.cause})" for worker in members.workers
            ]
            errors = [str(error) for error in self._jobs.errors.values()]
            raise NoWorkers(
                f"{able} rollout workers are able to serve, rollout.min_workers="
                f"{settings.min_workers} are needed, and "
                f"{'none will come' if hopeless else f'{now - self._short_since:.0f} s are over'}: "
                f"{', '.join(states) or 'no worker is left'}"
                f"{'; the last error: ' if errors else ''}{''.join(errors[-1:])}; "
                "--resume goes on without loss"
            )

    def _join(self, cause: Cause) -> None:
        worker = self._members.join(f"rollout-{self._next_index}", cause)
        self._next_index += 1
        self._jobs.begin(worker.name, self._jobs.start(worker))

    def _restart(self, worker: WorkerHealth) -> None:
        self._budget.charge(worker.name, self._clock.monotonic())
        worker.restarting()
        self._jobs.begin(worker.name, self._jobs.start(worker))

    def _raise_faults(self) -> None:
        if self._jobs.faults:
            raise self._jobs.faults[0]

    async def _woken(self) -> None:
        """Wait for a change, the end of a job, or the time of the next look."""
        timer = asyncio.ensure_future(self._clock.sleep(LOOK_EVERY_S))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((timer, woken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            woken.cancel()
        number = len(self._members)
        await self._clock.sleep(max(_GATHER_S, _GATHER_S_PER_WORKER * number))
        self._wake.clear()

    def _on_change(self, change: Change) -> None:
        self._has_news = True
        self._wake.set()
        if change.is_routine:
            return
        if change.state is HealthState.DEAD:
            log.warning("%s is dead (%s); its requests go to others", change.name, change.cause)
        self._events.note(
            "worker_joined" if change.before is None else "worker_state",
            change.name,
            state=change.state,
            before=change.before,
            cause=change.cause,
            version=None if change.version is None else str(change.version),
            epoch=self._members.epoch,
        )


def _needs_room(worker: WorkerHealth) -> bool:
    """Whether a worker is dead for want of a node: no fault of its own."""
    lacks = worker.cause in (Cause.NODE_DIED, Cause.NO_ROOM)
    return worker.state is HealthState.DEAD and lacks


def _has_failed(worker: WorkerHealth) -> bool:
    return worker.state is HealthState.DEAD and not _needs_room(worker)
