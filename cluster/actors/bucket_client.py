"""Bucket client: sends checked buckets of weights to every engine, each node in its own time.

    rank 0's node   begin -> load 0 -> load 1 -> ... -> finish         from rank 0's own memory
    another node    hold 0 -> begin -> load 0 -> load 1 -> ... -> finish
                             hold 1, while bucket 0 loads -> hold 2 ...

To another node a bucket travels once: one engine's actor holds it, checked, in memory that all
engines there read. A node has two such places, so the next bucket arrives while the last one
loads. An engine writes on until the first bucket is on its node. What fails on one node is that
node's failure only: the order of its calls is Ray's, by their arguments, and no node waits for
another as long as rank 0 has memory for what the slower one lacks.

Each bucket that is in Ray's object store, for another node or for engines that join later, is there
once; all of them are the host copy of this version (cluster/actors/host_copy.py).
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.actors.engine_calls import EngineCalls, EngineSet, first_line
from cluster.actors.host_copy import PLACES, AdapterCopy, HostCopy
from wire.adapters import AdapterFiles
from wire.errors import DeepIntuitError
from wire.types import PolicyVersion
from wire.weights import digest

_SHARE_OF_STORE = 0.4
"""Of a node's object store, for a host copy: while a new one is made, an engine may hold the old
one."""


class BucketClient:
    """Client of the ``object_store`` transfer. Implements vLLM's ``VLLMWeightSyncClient``;
    ``update_weights`` returns once the bucket *before* the given one is read no more."""

    def __init__(self, update_timeout_s: float) -> None:
        """``update_timeout_s``: of an engine's step of an update."""
        # longer than the engine's own deadline
        self._timeout_s = update_timeout_s + 30
        self._engines = EngineSet(epoch=0, actors={})
        self._calls = EngineCalls({}, self._timeout_s)
        self._version = PolicyVersion(attempt=0, step=0)
        self._nodes: dict[tuple[int, str], str] = {}
        self._near: _Node | None = None
        self._far: list[_Node] = []
        self._carrier: ThreadPoolExecutor | None = None
        self._carried: list[Future[Any]] = []
        self._num_sent = 0
        self._keeps = False
        self.untried: list[str] = []
        self.copy: HostCopy | AdapterCopy | None = None

    def open(self, version: PolicyVersion, engines: EngineSet) -> None:
        """Choose the engines of the next update, and the version that it brings."""
        self._version, self._engines = version, engines
        self._calls = EngineCalls(engines.actors, self._timeout_s)
        for carried in self._carried:  # of an update that was broken off
            carried.cancel()
        self._near, self._far, self._carried, self._num_sent = None, [], [], 0
        self.copy = None

    @property
    def failures(self) -> dict[str, str]:
        """Engines that left the last update, and why."""
        return self._calls.failures

    @property
    def load_s(self) -> float:
        """Seconds that the slowest engine spent loading the last update."""
        nodes = [*self._far, *([self._near] if self._near else [])]
        return max((node.load_s for node in nodes), default=0.0)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Nothing: buckets need no rendezvous."""

    def start_weight_update(self) -> None:
        """Sort the engines by node. They write on until their first bucket is there."""
        epoch = self._engines.epoch
        new = [name for name in self._calls.active if (epoch, name) not in self._nodes]
        where = self._calls.ask("node", lambda _, worker: worker.node.remote(), new)
        self._nodes |= {(epoch, name): node for name, node in where.items()}
        by_node = dict[str, list[str]]()
        for name in self._calls.active:
            by_node.setdefault(self._nodes[epoch, name], []).append(name)
        here = ray.get_runtime_context().get_node_id()
        near = by_node.pop(here, [])
        self._near = _Node(self._calls, near, is_near=True)
        self._far = [_Node(self._calls, names, is_near=False) for names in by_node.values()]

    def update_weights(self, update_info: Any) -> None:
        """Send one bucket to all engines. ``data`` are the bytes that this process keeps at
        ``path``; with ``stay`` they remain there until the update ends, and nobody is awaited."""
        assert self._near is not None, "start_weight_update() comes first"
        header = {key: value for key, value in update_info.items() if key not in ("data", "stay")}
        if self._num_sent == 0:
            num_bytes = update_info["num_buckets"] * len(update_info["data"])
            self._keeps = num_bytes <= _SHARE_OF_STORE * _store_bytes()
        self._near.send(header)
        if self._far or self._keeps:
            self._carrier = self._carrier or ThreadPoolExecutor(1, thread_name_prefix="carry")
            data, keeps = update_info["data"], self._keeps
            self._carried.append(self._carrier.submit(_carry, self._far, header, data, keeps=keeps))
        if not update_info.get("stay"):
            self._near.await_loaded(self._num_sent)
            if self._carried and self._num_sent:
                self._carried[self._num_sent - 1].result()
        self._num_sent += 1

    def await_sent(self) -> None:
        """Wait until everything that was sent is loaded."""
        assert self._near is not None, "start_weight_update() comes first"
        for carried in self._carried:
            carried.result()
        for node in (self._near, *self._far):
            node.await_loaded()

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End the update, on each node once it is loaded there."""
        assert self._near is not None, "start_weight_update() comes first"
        finishing = self._near.finish(self._version)
        self.await_sent()
        for node in self._far:
            finishing |= node.finish(self._version)
        self._calls.answers("finish_update", finishing)
        if self._keeps:
            chunks = tuple(carried.result() for carried in self._carried)
            self.copy = HostCopy(version=self._version, chunks=chunks)

    def load_adapter(self, files: AdapterFiles) -> None:
        """Load a LoRA adapter beside the adapters that requests use; nothing pauses."""
        sent = ray.put(files)
        self._calls.ask("load_adapter", lambda _, w: w.load_adapter.remote(self._version, sent))
        self.copy = AdapterCopy(version=self._version, files=sent)


class _Node:
    """Engines of one node in an update: the calls made to them, bucket after bucket. Each call gets
    the answers that it waits for as arguments, so that Ray keeps the order and rank 0 is free."""

    def __init__(self, calls: EngineCalls, names: Sequence[str], *, is_near: bool) -> None:
        self._calls, self._names, self._is_near = calls, list(names), is_near
        self._last: dict[str, Any] = {}
        self._holding: list[tuple[str, Any]] = []
        self._loading: list[dict[str, Any]] = []
        self._num_awaited = 0
        self.load_s = 0.0

    @property
    def names(self) -> list[str]:
        """Engines that are still in the update."""
        return [name for name in self._names if name in self._calls.active]

    def await_place(self) -> None:
        """Wait until one more bucket can be held."""
        self.await_loaded(len(self._loading) - PLACES + 1)

    def send(self, chunk: Any) -> None:
        """Bring a bucket to the engines. ``chunk``: its header and path; for another node a
        reference to it with its bytes."""
        if not self.names:
            return
        header = chunk if self._is_near else self._hold(chunk)

        def load(name: str, worker: Any) -> Any:
            if name not in self._last:
                self._last[name] = worker.begin_update.remote(header)
            self._last[name] = worker.update_weights.remote(header, self._last[name])
            return self._last[name]

        self._loading.append(self._calls.start(load, self.names))

    def await_loaded(self, count: int | None = None) -> None:
        """Await the answers to the first ``count`` buckets, to all by default."""
        count = len(self._loading) if count is None else min(count, len(self._loading))
        for index in range(self._num_awaited, count):
            if not self._is_near:
                self._check_held(*self._holding[index])
            answers = self._calls.answers("update_weights", self._loading[index])
            self.load_s += max(answers.values(), default=0.0)
        self._num_awaited = max(self._num_awaited, count)

    def finish(self, version: PolicyVersion) -> dict[str, Any]:
        """End the update in every engine that has loaded all of it."""
        return self._calls.start(
            lambda name, w: w.finish_update.remote(version, self._last.get(name)), self.names
        )

    def _hold(self, chunk: Any) -> Any:
        holder, place = self.names[0], len(self._holding) % PLACES
        held = self._calls.start(lambda _, w: w.hold.remote(chunk, place), [holder])[holder]
        self._holding.append((holder, held))
        return held

    def _check_held(self, holder: str, held: Any) -> None:
        try:
            ray.get(held, timeout=self._calls.timeout_s)
            return
        except GetTimeoutError:
            why = f"hold did not end within {self._calls.timeout_s:.0f} s"
        except (RayError, DeepIntuitError) as error:
            why = f"hold: {first_line(error)}"
        self._calls.drop(holder, why)
        for name in self.names:
            self._calls.drop(name, f"{holder} did not bring the weights to this node")


def _carry(nodes: "Sequence[_Node]", header: dict[str, Any], data: Any, *, keeps: bool) -> Any:
    """Send a bucket to each of other nodes once, as soon as all of them have a place for it. It is
    ready by then. Returns a reference to it, None if it is in nobody's way. ``keeps``: also where
    no engine is left."""
    if not keeps and not any(node.names for node in nodes):
        return None
    rest = {key: value for key, value in header.items() if key != "path"}
    chunk = ray.put({**rest, "data": data, "digest": digest(data)})
    for node in nodes:
        node.await_place()
    for node in nodes:
        node.send(chunk)
    return chunk


def _store_bytes() -> float:
    """Size of this node's object store."""
    here = ray.get_runtime_context().get_node_id()
    sizes = [
        n["Resources"].get("object_store_memory", 0.0) for n in ray.nodes() if n["NodeID"] == here
    ]
    return float(sizes[0]) if sizes else 0.0
