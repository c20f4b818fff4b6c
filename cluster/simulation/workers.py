"""Scripted fleet: workers that start, write, hang and die in virtual time. Implements ``Fleet``.

supervisor (cluster/pool) -> start, probe, catch_up, stop -> ScriptedFleet <- faults
dispatcher (cluster/pool) -> answer                        -> ScriptedFleet <- updates of weights
"""

import asyncio
from collections.abc import Iterator, Sequence

from cluster.pool.fleet import NoRoom
from cluster.pool.worker_health import Cause, Place, WorkerLost
from cluster.simulation.engine import EngineDied, ScriptedEngine
from cluster.simulation.scenario import Scenario
from wire.types import PolicyVersion

_PROBE_TOKENS = 1


class _Worker:
    """A worker in its slot."""

    def __init__(self, slot: int, node: int, engine: ScriptedEngine) -> None:
        self.slot, self.node, self.engine = slot, node, engine
        self.hangs = False
        self.ended: Cause | None = None
        self.since = asyncio.get_running_loop().time()


class ScriptedFleet:
    """Fleet of scripted workers on nodes of a few slots each."""

    def __init__(self, scenario: Scenario, version: int) -> None:
        self._scenario, self._published = scenario, version
        self._speed = scenario.timings.engine_speed(scenario.rollout.max_num_seqs)
        self._workers: dict[str, _Worker] = {}
        self._past: list[ScriptedEngine] = []
        self._placed_s = 0.0  # of workers that have ended
        self._room = scenario.workers
        self._down = set[int]()
        self.num_starts = 0

    # Fleet: what the supervisor asks

    async def room(self) -> int:
        """Slots that are free."""
        return sum(1 for _ in self._free_slots())

    def request(self, count: int) -> None:
        """Nothing: there is no autoscaler."""

    async def start(self, name: str) -> Place:
        """Take a slot, and start an engine there."""
        slot = next(self._free_slots(), None)
        if slot is None:
            raise NoRoom(f"no slot is free for {name}")
        node = slot // self._scenario.workers_per_node
        worker = _Worker(slot, node, ScriptedEngine(self._speed, self._published))
        self._workers[name] = worker
        self.num_starts += 1
        await asyncio.sleep(self._scenario.timings.engine_start_s)
        _require_alive(name, worker)
        return Place(node=f"node-{node}", pid=self.num_starts)

    async def probe(self, name: str) -> None:
        """Take as long as a token, unless the engine hangs."""
        worker = self._alive(name)
        if worker.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(self._scenario.timings.decode_step_s * _PROBE_TOKENS)
        _require_alive(name, worker)

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one worker."""
        worker, timings = self._alive(name), self._scenario.timings
        version = self._published
        sends = 8 * timings.weights_gb / timings.network_gbit
        await asyncio.sleep(sends + timings.load_weights_s)
        _require_alive(name, worker)
        worker.engine.version = version
        return PolicyVersion(attempt=0, step=version)

    async def stop(self, name: str) -> None:
        """End a worker and free its slot."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            self._end(worker, worker.ended or Cause.SCALED_DOWN)
            self._past.append(worker.engine)

    # what the writer and the updates ask

    async def answer(self, name: str, lengths: Sequence[int]) -> Sequence[int]:
        """Write a group. Returns the version of the weights that began each trace."""
        worker = self._alive(name)
        try:
            return await worker.engine.write(lengths)
        except EngineDied as error:
            raise WorkerLost(f"{name} died", worker.ended or Cause.ENGINE_DIED) from error

    def halt(self, names: Sequence[str]) -> None:
        """Stop engines for new weights."""
        for name in names:
            if name in self._workers:
                self._workers[name].engine.halt()

    def load(self, name: str, version: int) -> None:
        """Give one engine new weights, and let it go on. Raises WorkerLost; an engine that hangs
        stays as it is."""
        worker = self._alive(name)
        if not worker.hangs:
            worker.engine.version = version
            worker.engine.go_on(self._scenario.rollout.in_flight)

    def published(self, version: int) -> None:
        """Note the newest version, which joiners get."""
        self._published = version

    def hangs(self, name: str) -> bool:
        """Whether a worker's engine answers nothing, though its process lives."""
        return name in self._workers and self._workers[name].hangs

    def is_busy(self, name: str) -> bool:
        """Whether an engine has a sequence in work."""
        return name in self._workers and self._workers[name].engine.is_busy

    # faults

    def fail_slot(self, slot: int, *, hang: bool) -> bool:
        """Let the engine in a slot die or hang. Returns whether there was one that ran."""
        for worker in self._workers.values():
            if worker.slot == slot and worker.ended is None and not worker.hangs:
                if hang:
                    worker.hangs = True
                    worker.engine.halt()
                else:
                    self._end(worker, Cause.ENGINE_DIED)
                return True
        return False

    def node_down(self, node: int) -> bool:
        """Let a node die with its workers. Returns whether it ran."""
        if node in self._down:
            return False
        self._down.add(node)
        for worker in self._workers.values():
            if worker.node == node:
                self._end(worker, Cause.NODE_DIED)
        return True

    def node_up(self, node: int) -> None:
        """Give a node back."""
        self._down.discard(node)

    def set_room(self, workers: int) -> None:
        """Give the cluster room for another number of workers; those beyond it die with their
        nodes."""
        self._room = workers
        for worker in self._workers.values():
            if worker.slot >= workers:
                self._end(worker, Cause.NODE_DIED)

    # figures

    @property
    def engines(self) -> list[ScriptedEngine]:
        """All engines that there were."""
        return [*self._past, *(worker.engine for worker in self._workers.values())]

    @property
    def placed_s(self) -> float:
        """Seconds of all workers from their start to their end."""
        now = asyncio.get_running_loop().time()
        alive = [worker for worker in self._workers.values() if worker.ended is None]
        return self._placed_s + sum(now - worker.since for worker in alive)

    def _end(self, worker: _Worker, cause: Cause) -> None:
        if worker.ended is None:
            worker.ended = cause
            self._placed_s += asyncio.get_running_loop().time() - worker.since
            worker.engine.end()

    def _alive(self, name: str) -> _Worker:
        if name not in self._workers:
            raise WorkerLost(f"{name} has ended")
        worker = self._workers[name]
        _require_alive(name, worker)
        return worker

    def _free_slots(self) -> Iterator[int]:
        taken = {worker.slot for worker in self._workers.values()}
        for slot in range(self._room):
            if slot not in taken and slot // self._scenario.workers_per_node not in self._down:
                yield slot


def _require_alive(name: str, worker: _Worker) -> None:
    if worker.ended is not None:
        raise WorkerLost(f"{name} died", worker.ended)
