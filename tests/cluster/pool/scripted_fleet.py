"""A fleet whose workers do as they are told: start, answer, die, hang. (No test file.)"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cluster.metrics.events import Event
from cluster.metrics.timeline import Timeline
from cluster.pool.clock import LoopClock
from cluster.pool.dispatch import Dispatcher
from cluster.pool.fleet import NoRoom
from cluster.pool.membership import Membership
from cluster.pool.settings import PoolSettings
from cluster.pool.supervisor import Supervisor
from cluster.pool.worker_health import Cause, Place, WorkerLost
from wire.errors import GenerationError, WeightUpdateError
from wire.types import PolicyVersion


def version(step: int) -> PolicyVersion:
    return PolicyVersion(attempt=0, step=step)


@dataclass
class Engine:
    """What a worker's engine does."""

    weights: PolicyVersion
    dead: Cause | None = None
    hangs: bool = False
    """It answers nothing, for ever."""
    fails: bool = False
    """It answers requests by an error, and probes well."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedFleet:
    """A Fleet of engines that tests break."""

    def __init__(self, room: int = 100) -> None:
        self.free = room
        self.base = version(0)
        """Weights that an engine starts with."""
        self.newest: PolicyVersion | None = version(0)
        """Weights in the host copy; None: there is no such copy."""
        self.engines: dict[str, Engine] = {}
        self.calls = Counter[str]()
        self.requested: list[int] = []
        self.start_s, self.answer_s, self.catch_up_s = 10.0, 1.0, 2.0
        self.start_fails = self.catch_up_fails = False
        self.max_in_work = Counter[str]()
        self._in_work = Counter[str]()

    async def room(self) -> int:
        return self.free

    def request(self, count: int) -> None:
        self.requested.append(count)

    async def start(self, name: str) -> Place:
        self.calls["start", name] += 1
        assert name not in self.engines, "stop() comes first"
        if not self.free:
            raise NoRoom("no CPU is free")
        self.free -= 1
        await asyncio.sleep(self.start_s)
        if self.start_fails:
            self.free += 1
            raise WorkerLost(f"{name} has no model", Cause.ACTOR_DIED)
        self.engines[name] = Engine(self.base)
        return Place(node="node-0", pid=1000 + self.calls.total())

    async def probe(self, name: str) -> None:
        self.calls["probe", name] += 1
        await self._work(name, 0.1)

    async def catch_up(self, name: str) -> PolicyVersion | None:
        self.calls["catch_up", name] += 1
        newest = self.newest
        if newest is None:
            return None
        await self._work(name, 0.0 if self.engines[name].weights == newest else self.catch_up_s)
        if self.catch_up_fails:
            raise WeightUpdateError(f"{name} lost a bucket")
        self.engines[name].weights = newest
        return newest

    async def stop(self, name: str) -> None:
        self.calls["stop", name] += 1
        if self.engines.pop(name, None) is not None:
            self.free += 1

    async def answer(self, name: str) -> str:
        """A request to a worker: the name of who answers and its weights."""
        self._in_work[name] += 1
        self.max_in_work[name] = max(self.max_in_work[name], self._in_work[name])
        try:
            await self._work(name, self.answer_s)
            if self.engines[name].fails:
                raise GenerationError(f"{name} cannot write")
            return f"{name} {self.engines[name].weights}"
        finally:
            self._in_work[name] -= 1

    async def _work(self, name: str, seconds: float) -> None:
        engine = self.engines.get(name)
        if engine is None:
            raise WorkerLost(f"{name} is gone", Cause.ACTOR_DIED)
        if engine.hangs:
            await asyncio.Event().wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(engine.ended.wait(), seconds)
        if engine.dead:
            raise WorkerLost(f"{name} died", engine.dead)

    def kill(self, name: str, cause: Cause = Cause.ENGINE_DIED) -> None:
        """Let a worker die: whatever waits for it, and whatever comes, fails."""
        engine = self.engines[name]
        engine.dead = cause
        engine.ended.set()


class NotedEvents:
    """Keeps events in a list."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.observers: list[Callable[[Event], None]] = []

    def note(self, kind: str, subject: str, **fields: Any) -> None:
        time = asyncio.get_running_loop().time()
        self.all.append(Event(kind=kind, subject=subject, fields=fields, time=time))
        for observe in self.observers:
            observe(self.all[-1])

    def states(self, name: str) -> list[str]:
        """States that a worker came into."""
        kinds = ("worker_joined", "worker_state")
        return [e.fields["state"] for e in self.all if e.subject == name and e.kind in kinds]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.all if event.kind == kind]


class Pool:
    """All parts of a pool around a scripted fleet."""

    def __init__(
        self, fleet: ScriptedFleet, settings: PoolSettings, timeline: Timeline | None = None
    ) -> None:
        self.fleet, self.settings, self.events = fleet, settings, NotedEvents()
        self.asked: int | None = None
        self.shown: list[float] = []
        """Times at which the fleet was shown."""
        clock = LoopClock()
        self.members = Membership(settings.health, clock)
        self.members.trust(fleet.base)
        self.dispatcher = Dispatcher(self.members, settings, clock, self.events, timeline)
        self.supervisor = Supervisor(
            self.members,
            self.dispatcher,
            fleet,
            settings,
            clock,
            self.events,
            asked=lambda: self.asked,
            show=lambda: self.shown.append(asyncio.get_running_loop().time()),
        )
        self.running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Pool":
        await self.supervisor.start()
        self.running = asyncio.create_task(self.supervisor.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.supervisor.stop()

    async def ask(self, what: str = "clip", **options: Any) -> str:
        return await self.dispatcher.ask(self.fleet.answer, what, **options)

    async def update(self, step: int, seconds: float = 3.0, *, others_serve: bool = False) -> None:
        """An update of all members, as the weight sync does it."""
        new = version(step)
        with self.members.updating(new, others_serve=others_serve):
            names = self.members.updatable
            await asyncio.sleep(seconds)
            for name in names:
                if name in self.fleet.engines and not self.fleet.engines[name].dead:
                    self.fleet.engines[name].weights = new
                    self.members.proven(name, new)
            if self.fleet.newest is not None:
                self.fleet.newest = new

    def state(self, name: str) -> str:
        return self.members[name].state.value


def settings(number: int = 3, **changes: Any) -> PoolSettings:
    """Settings of a pool of a fixed size, but for ``changes``."""
    fields = {
        "num_workers": number,
        "min_workers": 1,
        "max_workers": number,
        "start_with": number,
        "default_workers": number,
        "max_concurrency": 4,
        **changes,
    }
    return PoolSettings(**fields)
