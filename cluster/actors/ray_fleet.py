"""Fleet of rollout workers on Ray: each an actor with an engine, in a placement group of its own.

start -> seat -> node is admitted -> actor -> engine (vLLM) -> what all workers were told
stop  -> processes of the engine, actor, seat

It implements ``Fleet`` of cluster/pool/fleet.py: what is to be done with whom, the supervisor there
decides.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from cluster.actors.deadlines import DIED, ignore_dead
from cluster.actors.engine_calls import first_line
from cluster.actors.placement import Seat, reserve_worker, worker_room
from cluster.actors.rollout_actor import RolloutActor
from cluster.config.node_layout import kinds_of, worker_kind
from cluster.config.recipe import RunConfig
from cluster.pool.fleet import NoRoom
from cluster.pool.worker_health import Cause, Place, WorkerLost
from wire.errors import DeadlineExceeded, DeepIntuitError, PlacementError
from wire.types import PolicyVersion

T = TypeVar("T")

_NODE_DIED = "its node has died"  # in Ray's words
_REACH_EVERY_S = 1.0
_SLOW_S = 10.0
_END_S = 15.0  # of an engine's processes; then Ray ends the actor, and the watchdog the engine

log = logging.getLogger(__name__)

RemoteRolloutActor: Any = ray.remote(RolloutActor)


class OutOfReach(DeadlineExceeded):
    """A worker to whose node there is no connection for now."""


class Weights(Protocol):
    """Where a worker that joins gets the newest weights; cluster/weight_sync implements it."""

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one worker and prove them. Returns their version; None: with
        the next update."""
        ...


class RayFleet:
    """Fleet of a run. The first workers get the seats that were reserved for them."""

    def __init__(
        self,
        config: RunConfig,
        seats: Sequence[Seat],
        admit: Callable[[Seat], Awaitable[None]] | None = None,
    ) -> None:
        """``admit`` raises PlacementError if a seat's node does not see the run's files; it is
        asked about nodes that had no seat at the start."""
        self._config, self._admit = config, admit
        self._first_seats = {f"rollout-{index}": seat for index, seat in enumerate(seats)}
        self._admitted, self._refused = {seat.node for seat in seats}, set[str]()
        self._seats: dict[str, Seat] = {}
        self._starts: dict[str, int] = {}
        self._up = set[str]()
        self._tellings: dict[str, tuple[Any, ...]] = {}
        self._asks_for_room = False
        self.actors: dict[str, Any] = {}
        """Actor of each worker that was started and has not ended."""
        self.weights: Weights | None = None
        """None: no update has brought any yet."""
        self.model_dir, self.version = "", PolicyVersion(attempt=0, step=0)
        """What engines start with."""

    async def room(self) -> int:
        """How many more workers could be placed now. None beside engines that share a GPU with a
        rank."""
        if self._config.colocated:
            return 0
        return await asyncio.to_thread(worker_room, self._config, frozenset(self._refused))

    def request(self, count: int) -> None:
        """Ask Ray's autoscaler for room for ``count`` workers and all learner ranks, if the number
        of workers may change; without an autoscaler this changes nothing. It holds until
        :meth:`end`."""
        if not self._config.rollout.is_elastic:
            return
        ranks = kinds_of(self._config)[-1]
        worker = worker_kind(self._config).bundle
        self._ask_autoscaler([worker] * count + [ranks.bundle] * ranks.count)

    def _ask_autoscaler(self, bundles: list[dict[str, float]]) -> None:
        from ray.autoscaler.sdk import request_resources

        try:
            request_resources(bundles=bundles)
        except (RayError, RuntimeError, OSError) as error:  # the run has what it has
            log.warning("the autoscaler was not asked for room: %s", error)
        else:
            self._asks_for_room = bool(bundles)

    async def start(self, name: str) -> Place:
        """Place a worker and start its engine. Raises NoRoom, WorkerLost, DeadlineExceeded."""
        config, rollout = self._config, self._config.rollout
        seat = self._seats[name] = await self._seat(name)
        if name in self.actors:  # its last start was given up
            ray.kill(self.actors[name])
        options = seat.options(rollout.num_cpus, rollout.num_gpus)
        actor = self.actors[name] = RemoteRolloutActor.options(
            max_concurrency=1000, **options
        ).remote(config, name)
        starts = self._starts[name] = self._starts.get(name, -1) + 1
        try:
            call = actor.start.remote(self.model_dir, self.version, starts)
            process = await self.answer(name, call)
        except RayTaskError as error:
            if isinstance(error, DeepIntuitError):
                raise
            why = f"{name} did not start its engine: {first_line(error)}"
            raise WorkerLost(why, Cause.START_FAILED) from error
        self._up.add(name)
        for method, values in list(self._tellings.items()):
            await self.answer(name, getattr(actor, method).remote(*values))
        return Place(node=seat.node, pid=process)

    async def _seat(self, name: str) -> Seat:
        if (held := self._seats.get(name)) is not None:  # shared with a rank
            return held
        if (first := self._first_seats.pop(name, None)) is not None:
            return first
        try:
            seat = await reserve_worker(self._config, self._refused)
            try:
                await self._admit_node(seat)
            except BaseException:
                seat.release()
                raise
        except PlacementError as error:
            raise NoRoom(str(error)) from error
        return seat

    async def _admit_node(self, seat: Seat) -> None:
        """Look whether a node that is new to the run sees its files; if not, it is left out from
        now on."""
        if self._admit is None or seat.node in self._admitted:
            return
        try:
            await self._admit(seat)
        except PlacementError:
            self._refused.add(seat.node)
            raise
        self._admitted.add(seat.node)

    async def tell(self, method: str, *values: Any) -> None:
        """Call a method of the actors of all workers that run, and of all that start later; one
        that dies meanwhile is no matter."""
        self._tellings[method] = values
        calls = [getattr(self.actors[name], method).remote(*values) for name in self._up]
        await asyncio.gather(*[ignore_dead(call) for call in calls])

    async def probe(self, name: str) -> None:
        """Let the engine show that it works, within the deadline that the caller sets; until then
        a worker that is out of reach is asked again. Raises WorkerLost."""
        while True:
            try:
                alive = await self.answer(name, self.actors[name].probe.remote())
                break
            except OutOfReach:
                await asyncio.sleep(_REACH_EVERY_S)
        if not alive:
            raise WorkerLost(f"{name} has lost its engine's process", Cause.ENGINE_DIED)

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one worker; what it started with, before any update."""
        return self.version if self.weights is None else await self.weights.catch_up(name)

    async def stop(self, name: str) -> None:
        """End a worker and its engine's processes, and give its seat back, unless a learner rank
        shares that."""
        self._up.discard(name)
        if (actor := self.actors.pop(name, None)) is not None:
            await ignore_dead(actor.end_processes.remote(), _END_S)
            ray.kill(actor)
        if not self._config.colocated and (seat := self._seats.pop(name, None)) is not None:
            seat.release()

    async def end(self) -> None:
        """End all engines and their actors, and ask for room no more."""
        actors = list(self.actors.values())
        await asyncio.gather(*[ignore_dead(actor.stop.remote()) for actor in actors])
        for actor in actors:
            ray.kill(actor)
        if not self._config.colocated:
            for seat in self._seats.values():
                seat.release()
        if self._asks_for_room:
            self._ask_autoscaler([])

    async def answer(self, name: str, call: Awaitable[T]) -> T:
        """A worker's answer. Raises WorkerLost where its actor is gone, OutOfReach where Ray does
        not know; takes the call back when cancelled."""
        try:
            return await call
        except asyncio.CancelledError:
            if isinstance(call, ray.ObjectRef):
                ray.cancel(call)
            raise
        except OutOfMemoryError as error:
            raise WorkerLost(
                f"{name}: Ray ended its process, the memory of its node being nearly full",
                Cause.OUT_OF_MEMORY,
            ) from error
        except ActorUnavailableError as error:  # a node that dies shows so first, and any hiccup
            raise OutOfReach(f"{name} is out of reach ({first_line(error)})") from error
        except ObjectLostError as error:  # its node died with the answer; probes tell
            raise OutOfReach(f"{name}: its answer was lost ({first_line(error)})") from error
        except DIED as error:
            why = f"{name}: its process died ({first_line(error)})"
            of_node = _NODE_DIED in str(error)
            cause = Cause.NODE_DIED if of_node else self.cause_of_death(name)
            raise WorkerLost(why, cause) from error

    async def death_of(self, name: str) -> Cause | None:
        """Why a worker is dead; None: its engine's process runs, or its actor is only slow."""
        if name not in self.actors:
            return Cause.ACTOR_DIED
        try:
            async with asyncio.timeout(_SLOW_S):
                alive = await self.actors[name].is_alive.remote()
        except (TimeoutError, ActorUnavailableError):
            return None
        except DIED:
            return self.cause_of_death(name)
        return None if alive else Cause.ENGINE_DIED

    def cause_of_death(self, name: str) -> Cause:
        """Why a worker's actor is gone: its node, or only itself."""
        seat = self._seats.get(name)
        gone = seat is not None and not seat.is_on_live_node
        return Cause.NODE_DIED if gone else Cause.ACTOR_DIED
