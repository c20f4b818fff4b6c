"""A pool of scripted workers on nodes that come and go, as Ray runs them. Prints what happens as
JSON. (No test file.)

The pool, its rules, placement groups, actors and nodes are the product's and Ray's; the engine is
scripted.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from cluster.actors import ray_fleet
from cluster.actors.host_copy import HostCopy
from cluster.actors.placement import reserve
from cluster.actors.rollout_pool import RolloutPool
from cluster.metrics.events import EventLog, read_events
from cluster.pool.desired_workers import ask_for_workers
from cluster.pool.worker_view import read_fleet
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.cluster.config.test_node_layout import config_of
from wire.errors import GenerationError
from wire.types import PolicyVersion, Sample, Split
from wire.weights import digest

STORE = 80 * 2**20
NODE = {"num_cpus": 4, "num_gpus": 2, "object_store_memory": STORE}
FIRST, SECOND = PolicyVersion(attempt=1, step=0), PolicyVersion(attempt=1, step=1)
SAMPLE = Sample(id="one", video="/one.mp4", label="a", split=Split.TRAIN)


class ScriptedActor:
    """A RolloutActor whose engine is an attribute."""

    def __init__(self, config: Any, name: str) -> None:
        self._name, self._alive, self._hangs = name, True, False
        self._told: list[str] = []
        self._held: dict[int, dict[str, Any]] = {}
        self._loaded: list[int] = []

    async def start(self, model_dir: str, version: PolicyVersion, restarts: int) -> int:
        self._version, self._told = version, [f"start {restarts}"]
        return os.getpid()

    async def use_tokens(self, narration: str) -> None:
        self._told.append(narration)

    async def probe(self) -> bool:
        while self._hangs:
            await asyncio.sleep(0.1)
        return self._alive

    async def is_alive(self) -> bool:
        return self._alive

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None, ask: Any
    ) -> Rollout:
        await asyncio.sleep(sampling.max_tokens / 1000)
        while self._hangs:
            await asyncio.sleep(0.1)
        if not self._alive:
            raise GenerationError(f"{self._name} has lost its engine")
        return Rollout(prompt=None, completions=(), failures=(), policy_version=self._version)

    async def spoil(self, what: str) -> None:
        setattr(self, what, what == "_hangs")

    async def begin_update(self, after: object = None) -> None:
        self._loaded = []

    async def hold(self, chunk: dict[str, Any], place: int) -> dict[str, Any]:
        self._held[place] = chunk
        assert digest(chunk["data"]) == chunk["digest"]
        return {"place": place}

    async def update_weights(self, update: dict[str, Any], after: object = None) -> float:
        self._loaded.append(int(self._held[update["place"]]["data"][0]))
        return 0.0

    async def finish_update(self, version: PolicyVersion, after: object = None) -> None:
        self._version = version

    async def seen(self) -> dict[str, Any]:
        return {"told": self._told, "loaded": self._loaded, "pid": os.getpid()}

    async def end_processes(self) -> None:
        self._alive = False

    async def stop(self) -> None:
        pass


class Weights:
    """Brings a host copy to a joiner; the proof is the engines' tests' part."""

    def __init__(self, pool: RolloutPool, copy: HostCopy) -> None:
        self._pool, self._copy = pool, copy

    async def catch_up(self, name: str) -> PolicyVersion:
        await self._pool.load(name, self._copy)
        return self._copy.version


class Scene:
    """A cluster of two nodes, a run directory, and a pool of 2 to 6 workers on it."""

    def __init__(self, cluster: Cluster, run_dir: Path) -> None:
        self.cluster, self.run_dir, self.nodes = cluster, run_dir, []
        self.seen: dict[str, Any] = {}
        config = config_of(2, 1, 1, 1, min_workers=1, max_workers=6, num_cpus=0.5)
        health = {"probe_interval_s": 0.5, "probe_timeout_s": 1.0, "backoff_base_s": 0.1}
        self.config = config.model_copy(
            update={"fleet_health": config.fleet_health.model_copy(update=health)}
        )

    async def open(self) -> None:
        self.seats = await reserve(self.config)
        self.pool = RolloutPool(
            *(self.config, self.seats.workers),
            events=EventLog(self.run_dir, 1),
            run_dir=self.run_dir,
        )
        ask_for_workers(self.run_dir, 2)
        await self.pool.start("model", FIRST)
        await self.serving(2)

    def actor(self, name: str) -> Any:
        return self.pool._fleet.actors[name]

    async def serving(self, count: int, without: str = "") -> float:
        """Seconds until so many serve."""
        start = time.monotonic()
        async with asyncio.timeout(60):
            while len(self.pool.in_service) != count or without in self.pool.in_service:
                await asyncio.sleep(0.05)
        return time.monotonic() - start

    async def ask(self, count: int, ms: int = 10) -> list[int]:
        sampling = Sampling(n=1, temperature=1.0, max_tokens=ms)
        asked = [self.pool.answer(SAMPLE, sampling) for _ in range(count)]
        async with asyncio.timeout(60):
            return [rollout.policy_version.step for rollout in await asyncio.gather(*asked)]

    def publish(self) -> None:
        """As an update to all that serve."""
        chunks = []
        for number in range(5):
            data = np.full(1000, number, np.uint8)
            chunks.append(ray.put({"data": data, "digest": digest(data)}))
        copy = HostCopy(version=SECOND, chunks=tuple(chunks))
        self.pool.use_weights_of(Weights(self.pool, copy))
        with self.pool.updating(SECOND):
            for name in self.pool.names:
                ray.get(self.actor(name).finish_update.remote(SECOND))
                self.pool.proven(name, SECOND)

    def states(self, name: str) -> list[str]:
        events = [e for e in read_events(self.run_dir) if e.subject == name]
        return [f"{e.fields['state']}: {e.fields['cause']}" for e in events if "state" in e.fields]


async def deaths(scene: Scene) -> None:
    """A killed actor, a dead engine, one that hangs: each starts anew with the newest weights."""
    await scene.pool.use_tokens("narration")  # type: ignore[arg-type]
    scene.publish()
    for what, name in (("killed", "rollout-0"), ("_alive", "rollout-1"), ("_hangs", "rollout-0")):
        asked = asyncio.create_task(scene.ask(12, ms=300))
        await asyncio.sleep(0.1)
        if what == "killed":
            os.kill(ray.get(scene.actor(name).seen.remote())["pid"], signal.SIGKILL)
        else:
            await scene.actor(name).spoil.remote(what)
        await scene.serving(1)
        seconds = await scene.serving(2)
        scene.seen[what] = {
            "versions": sorted(set(await asked)),
            "states": scene.states(name)[-4:],
            "worker": await scene.actor(name).seen.remote(),
            "back_s": seconds,
        }


async def scaling(scene: Scene) -> None:
    """More workers than there is room for; a node that joins, and one that dies; then fewer."""
    ask_for_workers(scene.run_dir, 6)
    scene.seen["room"] = {"joined_s": await scene.serving(3)}
    new = scene.cluster.add_node(**NODE)
    scene.seen["node joins"] = {"joined_s": await scene.serving(5)}
    asked = asyncio.create_task(scene.ask(40, ms=500))
    await asyncio.sleep(0.2)
    before = len(list(read_events(scene.run_dir)))
    scene.cluster.remove_node(new, allow_graceful=False)
    await scene.serving(3)
    scene.seen["node dies"] = {
        "versions": sorted(set(await asked)),
        "causes": [
            e.fields["cause"]
            for e in list(read_events(scene.run_dir))[before:]
            if e.fields.get("state") == "dead"
        ],
    }
    scene.cluster.add_node(**NODE)
    scene.seen["another node joins"] = {"joined_s": await scene.serving(5)}
    asked = asyncio.create_task(scene.ask(40, ms=500))
    await asyncio.sleep(0.2)
    ask_for_workers(scene.run_dir, 1)
    await scene.serving(1)
    versions = await asked
    async with asyncio.timeout(30):
        while not (view := read_fleet(scene.run_dir)) or len(view.workers) > 1:
            await asyncio.sleep(0.1)
    async with asyncio.timeout(30):
        while ray.available_resources().get("GPU") != 4:  # of 6: a worker and a rank sit there
            await asyncio.sleep(0.1)
    kinds = [e.kind for e in read_events(scene.run_dir)]
    scene.seen["scaled down"] = {
        "versions": sorted(set(versions)),
        "view": [worker.state for worker in view.workers],
        "left": kinds.count("worker_left"),
        "scaled": [e.fields["workers"] for e in read_events(scene.run_dir) if e.kind == "scaled"],
    }


async def story(cluster: Cluster, run_dir: Path) -> dict[str, Any]:
    ray_fleet.RemoteRolloutActor = ray.remote(ScriptedActor)
    scene = Scene(cluster, run_dir)
    await scene.open()
    await deaths(scene)
    await scaling(scene)
    await scene.pool.stop()
    scene.seats.release()
    async with asyncio.timeout(30):
        while ray.available_resources().get("GPU") != 6:
            await asyncio.sleep(0.1)
    return scene.seen


def main() -> int:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with tempfile.TemporaryDirectory() as folder:
            seen = asyncio.run(story(cluster, Path(folder)))
    finally:
        ray.shutdown()
        cluster.shutdown()
    sys.stdout.write(f"{json.dumps(seen)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
