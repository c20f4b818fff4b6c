"""Dispatcher of the pool: gives each request to a worker that serves, and to another if that fails.

    ask -> wait for a slot -> choose a worker -> answer
             ^                                    |
             +--- moved: the worker died or left -+- failed: after a wait, by another worker

Requests wait in the order in which they came; one that has been at a worker before goes first.
Every request ends: with an answer, with the failure that the last of ``max_infra_attempts`` tries
gave, or with the error that no worker is left.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cluster.metrics.events import Events
from cluster.metrics.timeline import ANSWER, QUEUE, NoTimeline, Timeline, span
from cluster.pool.backoff import Backoff
from cluster.pool.clock import Clock
from cluster.pool.load_index import LoadIndex
from cluster.pool.membership import Membership
from cluster.pool.settings import PoolSettings
from cluster.pool.worker_health import Cause, Change, HealthState, WorkerHealth, cause_of
from wire.errors import DeadlineExceeded, GenerationError, WorkerDied

T = TypeVar("T")

_DETOUR = 1  # requests that a worker near the clip may have more than the least busy one

log = logging.getLogger(__name__)


class RequestFailed(GenerationError):
    """A request that the fleet failed for good; ``worker``: the last that was asked."""

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.worker = worker


class NoWorkers(GenerationError):
    """No worker serves, and none will come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try(Generic[T]):
    """Try of a request at one worker: an answer, or a fault, or both where the answer tells of
    it."""

    answers: tuple[T, ...] = ()
    fault: str | None = None
    counts: bool = True
    """Whether it is one of the request's tries; a worker that leaves costs it none."""


@dataclass(eq=False, slots=True)
class _Slot:
    """Slot of a worker that a request holds."""

    worker: WorkerHealth
    moved: asyncio.Future[_Try[Any]]
    """What the try has come to, once it is known that the worker will not answer."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """Request that waits for a slot."""

    turn: int | None
    near: Callable[[], Set[str]]
    avoid: Set[str]
    granted: asyncio.Future[_Slot]


@dataclass(slots=True)
class _Load:
    """Requests that a worker has in work, and for how long it had any."""

    slots: set[_Slot] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    busy_s: float = 0.0
    since: float = 0.0


def _nowhere() -> Set[str]:
    return frozenset()


class Dispatcher:
    """Gives requests to the members that serve, ``max_concurrency`` times their number at most."""

    def __init__(
        self,
        members: Membership,
        settings: PoolSettings,
        clock: Clock,
        events: Events,
        timeline: Timeline | None = None,
    ) -> None:
        """``timeline``: takes a span of each wait and of each request at a worker."""
        self._timeline = timeline or NoTimeline()
        self._members, self._clock, self._events = members, clock, events
        self._max_concurrency, failure = settings.max_concurrency, settings.failure
        self._max_tries = failure.max_infra_attempts
        self._backoff = Backoff(base_s=failure.backoff_base_s, max_s=failure.max_backoff_s)
        self._waiting: deque[_Waiting] = deque()
        self._loads: dict[str, _Load] = {}
        self._ended: NoWorkers | None = None
        self._index = LoadIndex()
        self.num_moved = self.num_failed = 0
        """Times that a request left a worker for another one, and requests failed for good."""
        for name in members.serving:
            self._index.put(name, 0)
        members.listen(self._on_change)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def busy(self, name: str) -> int:
        """Requests that a worker has in work."""
        load = self._loads.get(name)
        return len(load.slots) if load else 0

    def busy_s(self, name: str) -> float:
        """Seconds in which a worker had requests in work, since it joined."""
        if (load := self._loads.get(name)) is None:
            return 0.0
        return load.busy_s + (self._clock.monotonic() - load.since if load.slots else 0.0)

    async def ask(
        self,
        call: Callable[[str], Awaitable[T]],
        what: str,
        *,
        turn: int | None = None,
        near: Callable[[], Set[str]] = _nowhere,
        failure_of: Callable[[T], str | None] = lambda answer: None,
        by_engine: bool = True,
    ) -> T:
        """Answer to the request ``what`` by a worker in service.

        ``call`` asks the named worker. It raises WorkerLost where the worker is gone,
        GenerationError or DeadlineExceeded where the worker failed and runs; it is cancelled when
        the request moves to another worker. ``turn``: see :func:`choose_worker`. ``near``: names of
        the workers that have the clip by now. ``failure_of``: why an answer is a failure of the
        worker; that of the last try is returned all the same. ``by_engine``: whether an answer
        shows that the engine works; else it shows only that its actor does. Raises RequestFailed,
        NoWorkers.
        """
        tries, failed_at, again = 0, set[str](), False
        while True:
            async with self._slot(turn, near, failed_at, first=again) as slot:
                kind = ANSWER if by_engine else "prompt"
                with span(self._timeline, slot.worker.name, kind, what=what) as opened:
                    tried = await self._try(slot, call, failure_of)
                    opened.args |= {} if tried.fault is None else {"fault": tried.fault}
                # before the slot is free, or the next request would meet the same fate
                self._report(slot.worker, tried, failed_at, by_engine=by_engine)
            name, again = slot.worker.name, True
            tries += tried.counts
            if tried.fault is None:
                return tried.answers[0]
            if tries >= self._max_tries:
                self.num_failed += 1
                if tried.answers:
                    return tried.answers[0]
                raise RequestFailed(f"{what}: {tries} tries failed, the last: {tried.fault}", name)
            self.num_moved += 1
            log.info("%s is asked for again: %s", what, tried.fault)
            self._events.note("request_moved", what, worker=name, why=tried.fault)
            if tried.counts:
                await self._clock.sleep(self._backoff.wait_s(tries))

    def hand_back(self, name: str, cause: Cause) -> None:
        """Give what a worker has in work to others."""
        self._move(name, _Try(fault=f"{name} hands back its requests ({cause})", counts=False))

    async def emptied(self, name: str) -> None:
        """Wait until a worker has nothing in work."""
        if (load := self._loads.get(name)) and load.slots:
            load.emptied.clear()
            await load.emptied.wait()

    def forget(self, name: str) -> None:
        """Forget a worker that has left."""
        self.hand_back(name, Cause.SCALED_DOWN)
        self._loads.pop(name, None)

    def end(self, why: str) -> None:
        """End all requests that wait or will come by NoWorkers: no worker will come back."""
        self._ended = NoWorkers(why)
        for waiting in self._waiting:
            if not waiting.granted.done():
                waiting.granted.set_exception(self._ended)
        self._waiting.clear()

    @asynccontextmanager
    async def _slot(
        self, turn: int | None, near: Callable[[], Set[str]], avoid: Set[str], *, first: bool
    ) -> AsyncIterator[_Slot]:
        """Slot of a worker, held during the block."""
        if self._ended:
            raise self._ended
        waiting = _Waiting(turn, near, avoid, asyncio.get_running_loop().create_future())
        (self._waiting.appendleft if first else self._waiting.append)(waiting)
        self._grant()
        try:
            with span(self._timeline, QUEUE, "wait for a worker"):
                slot = await waiting.granted
            yield slot
        finally:
            if waiting.granted.done() and not waiting.granted.cancelled():
                self._release(waiting.granted.result())

    async def _try(
        self,
        slot: _Slot,
        call: Callable[[str], Awaitable[T]],
        failure_of: Callable[[T], str | None],
    ) -> _Try[T]:
        """Ask the slot's worker, until it is known that it will not answer."""
        answer = asyncio.ensure_future(_awaited(call, slot.worker.name))
        try:
            await asyncio.wait((answer, slot.moved), return_when=asyncio.FIRST_COMPLETED)
            if slot.moved.done() and (not answer.done() or answer.exception()):
                return slot.moved.result()
            return _Try(answers=(answer.result(),), fault=failure_of(answer.result()))
        except WorkerDied as error:
            slot.worker.died(cause_of(error))
            return _Try(fault=str(error))
        except (GenerationError, DeadlineExceeded) as error:
            return _Try(fault=str(error))
        finally:
            answer.cancel()

    def _grant(self) -> None:
        """Give slots to those that wait, while there are any."""
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.granted.done():  # cancelled
                self._waiting.popleft()
                continue
            if (name := self._choice(waiting)) is None:
                return
            self._waiting.popleft()
            load = self._loads.setdefault(name, _Load())
            if not load.slots:
                load.since = self._clock.monotonic()
            slot = _Slot(self._members[name], asyncio.get_running_loop().create_future())
            load.slots.add(slot)
            self._index.put(name, len(load.slots))
            waiting.granted.set_result(slot)

    def _choice(self, waiting: _Waiting) -> str | None:
        """Name of the worker for a request; None while all that serve are full. One that the
        request failed at is asked again only if there is no other."""
        index, loads = self._index, self._index.loads
        least = index.least
        if least is None or loads[least] >= self._max_concurrency:
            return None
        if waiting.turn is not None:
            names = [worker.name for worker in self._members.staying]
            able = loads.keys() - waiting.avoid or loads.keys()
            return choose_worker(waiting.turn, names, able, loads)
        near = waiting.near()
        able = {least, *near} if least not in waiting.avoid else set(loads)
        free = {
            name for name in able if loads.get(name, self._max_concurrency) < self._max_concurrency
        }
        return choose_worker(None, (), free - waiting.avoid or free, loads, near)

    def _release(self, slot: _Slot) -> None:
        """Take a slot back."""
        load = self._loads.get(slot.worker.name)
        if load is None or slot not in load.slots:
            return
        load.slots.remove(slot)
        if slot.worker.name in self._index.loads:
            self._index.put(slot.worker.name, len(load.slots))
        if not load.slots:
            load.busy_s += self._clock.monotonic() - load.since
            load.emptied.set()
        self._grant()

    def _on_change(self, change: Change) -> None:
        if change.state is HealthState.DEAD:
            self._move(change.name, _Try(fault=f"{change.name} died ({change.cause})"))
        elif change.ends_requests:
            self.hand_back(change.name, change.cause)
        if change.state.serves:
            self._index.put(change.name, self.busy(change.name))
            self._grant()
        else:
            self._index.remove(change.name)

    def _move(self, name: str, why: _Try[Any]) -> None:
        for slot in self._loads[name].slots if name in self._loads else ():
            if not slot.moved.done():
                slot.moved.set_result(why)

    def _report(
        self, worker: WorkerHealth, tried: _Try[Any], failed_at: set[str], *, by_engine: bool
    ) -> None:
        """Report to a worker's health. A request that fails counts once against a worker, however
        often it is tried there: it may be the request's own fault."""
        if tried.fault is None and by_engine:
            worker.request_answered()
        elif tried.fault is not None and tried.counts and worker.name not in failed_at:
            failed_at.add(worker.name)
            worker.request_failed()


async def _awaited(call: Callable[[str], Awaitable[T]], name: str) -> T:
    return await call(name)


def choose_worker(
    turn: int | None,
    names: Sequence[str],
    in_service: Set[str],
    busy: Mapping[str, int],
    near: Set[str] = frozenset(),
) -> str:
    """The worker for a request: number ``turn`` modulo the workers if in service (deterministic
    runs), else the least busy one in service; of those ``near`` the clip, if that has at most one
    request more in work than the least busy of all."""
    if turn is None:
        least = min(in_service, key=lambda name: (busy[name], name))
        nearest = min(in_service & near, key=lambda name: (busy[name], name), default=least)
        return nearest if busy[nearest] <= busy[least] + _DETOUR else least
    own = names[turn % len(names)]
    return own if own in in_service else sorted(in_service)[turn % len(in_service)]
