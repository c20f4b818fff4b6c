"""A pool whose actors live in this process: no Ray, the same calls. (No test file.)"""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from cluster.actors import placement, ray_fleet
from cluster.actors.placement import Seat
from cluster.pool import supervisor
from rollout.engine import Sampling
from rollout.worker import Rollout
from wire.errors import GenerationError, PlacementError
from wire.types import PolicyVersion, Sample, Split

SAMPLE = Sample(id="one", video="/one.mp4", label="a", split=Split.TRAIN)
SAMPLING = Sampling(n=1, temperature=1.0, max_tokens=1)
FIRST = PolicyVersion(attempt=1, step=0)


class ScriptedActor:
    """A RolloutActor whose engine is an attribute."""

    def __init__(self, config: Any, name: str) -> None:
        self.name, self.is_engine_alive = name, True
        self.told: list[Any] = []
        self.loaded: list[Any] = []
        self.go = asyncio.Event()
        """Lets it answer requests."""
        self.works = asyncio.Event()
        """Lets it answer probes."""
        self.go.set()
        self.works.set()
        self.asked = self.num_counted = 0
        self.start_error: Exception | None = None

    async def start(self, model_dir: str, version: PolicyVersion, restarts: int) -> int:
        if self.start_error:
            raise self.start_error
        self.version = version
        self.told.append(f"start {restarts}")
        return 4711

    async def use_tokens(self, narration: str) -> None:
        self.told.append(narration)

    async def use_tower(self, tower: str) -> None:
        self.told.append(tower)

    async def probe(self) -> bool:
        await self.works.wait()
        return self.is_engine_alive

    async def is_alive(self) -> bool:
        return self.is_engine_alive

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None, ask: Any
    ) -> Rollout:
        self.asked += 1
        await self.go.wait()
        if not self.is_engine_alive:
            raise GenerationError(f"{self.name} has lost its engine")
        return Rollout(prompt=None, completions=(), failures=(), policy_version=self.version)

    async def cache_counts(self) -> dict[str, int]:
        self.num_counted += 1
        return {"clip_hits": 10 * self.num_counted}

    async def end_processes(self) -> None:
        self.told.append("end_processes")

    async def stop(self) -> None:
        self.told.append("stop")


class Cluster:
    """Seats and actors in place of Ray's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int = 0) -> None:
        self.room, self.nodes = room, {"n0", "n1"}
        self.actors: dict[str, list[Actor]] = {}
        """Every actor of a worker, the newest last."""
        self.killed: list[Actor] = []
        self.released: list[str] = []
        self.asked_autoscaler: list[int] = []
        self.new_node = "n1"
        self.make: Callable[..., Any] = ScriptedActor
        monkeypatch.setattr(ray_fleet, "RemoteRolloutActor", self)
        monkeypatch.setattr(ray_fleet, "reserve_worker", self.reserve_worker)
        monkeypatch.setattr(ray_fleet, "worker_room", lambda config, refused: self.room)
        monkeypatch.setattr(supervisor, "LOOK_EVERY_S", 0.05)
        monkeypatch.setattr(supervisor, "_ROOM_EVERY_S", 0.1)
        monkeypatch.setattr(ray_fleet, "_REACH_EVERY_S", 0.02)
        monkeypatch.setattr(ray, "kill", self.kill)
        monkeypatch.setattr(placement, "remove_placement_group", self.release)
        monkeypatch.setattr(placement, "_alive", lambda: [{"NodeID": n} for n in self.nodes])
        monkeypatch.setattr(
            "ray.autoscaler.sdk.request_resources",
            lambda bundles: self.asked_autoscaler.append(len(bundles)),
        )

    def seats(self, count: int) -> list[Seat]:
        return [self.seat(f"g{index}", "n0") for index in range(count)]

    def seat(self, group: str, node: str) -> Seat:
        return Seat(group, 0, node)  # type: ignore[arg-type]

    async def reserve_worker(self, config: Any, refused: Sequence[str] = ()) -> Seat:
        if not self.room or self.new_node in refused:
            raise PlacementError("no room")
        self.room -= 1
        return self.seat(f"{self.new_node}-{self.room}", self.new_node)

    def release(self, group: str) -> None:
        self.released.append(group)
        self.room += 1

    def options(self, **_: Any) -> "Cluster":
        return self

    def remote(self, config: Any, name: str) -> "Actor":
        actor = Actor(self.make(config, name))
        self.actors.setdefault(name, []).append(actor)
        return actor

    def kill(self, actor: "Actor") -> None:
        self.killed.append(actor)
        actor.die()

    def of(self, name: str) -> "Actor":
        return self.actors[name][-1]


class Actor:
    """Handle of an actor; calls to one that has died fail as Ray's do."""

    def __init__(self, scripted: Any) -> None:
        self.scripted = scripted
        self.dead = asyncio.Event()
        self.out_of_reach = False

    def die(self) -> None:
        self.dead.set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self.scripted, name)
        return SimpleNamespace(remote=lambda *values: self._call(method, values))

    async def _call(self, method: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        if self.dead.is_set():
            raise ActorDiedError
        if self.out_of_reach:
            raise ActorUnavailableError("the connection was lost", None)
        answer = asyncio.ensure_future(method(*values))
        died = asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait((answer, died), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ActorDiedError
            return answer.result()
        finally:
            answer.cancel()
            died.cancel()
