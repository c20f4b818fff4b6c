"""Engine client: vLLM's weight-sync protocol over Ray. Sends each update to every rollout worker
and keeps each worker's failure apart.

An engine that fails leaves the update and is reported; the others go on. Every call has a deadline,
and its error names worker and call. Bytes reach the engines of the learner's own node through its
memory; to another node they travel once, and its engines share them there.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from wire.adapters import AdapterFiles
from wire.errors import DeepIntuitError, WeightUpdateError
from wire.types import PolicyVersion
from wire.weights import digest


class EngineClient:
    """Client of all engines, used by rank 0 of the learner. Implements vLLM's
    ``VLLMWeightSyncClient``."""

    def __init__(self, workers: dict[str, Any], ranks_per_engine: int, timeout_s: float) -> None:
        self._workers = workers
        self._ranks_per_engine = ranks_per_engine
        self._timeout_s = timeout_s
        self._version = PolicyVersion(attempt=0, step=0)
        self._active = list(workers)
        self._nodes: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        """Workers that left the last update, and why."""
        self._loading: list[dict[str, Any]] = []
        self.load_s = 0.0
        """Seconds that the slowest engine spent loading chunks of the last update."""

    def open(self, version: PolicyVersion, names: list[str]) -> None:
        """Choose the workers of the next update, and the version that it brings."""
        self._version, self._active, self.failures = version, list(names), {}
        self._loading, self.load_s = [], 0.0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the rendezvous. NCCL ranks are numbered through all engines."""
        names = list(self._workers)

        def call(name: str, worker: Any) -> Any:
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += names.index(name) * self._ranks_per_engine
            return worker.init_transfer.remote(info)

        self._fan_out("init_transfer", call)
        if not self._active:
            raise WeightUpdateError(f"no rollout worker met the learner: {self.failures}")

    def start_weight_update(self) -> None:
        """Pause the engines and open the update."""
        new = [name for name in self._active if name not in self._nodes]
        self._nodes |= self._fan_out("node", lambda _, worker: worker.node.remote(), new)
        self._fan_out("begin_update", lambda _, worker: worker.begin_update.remote())

    def update_weights(self, update_info: Any) -> None:
        """Send one chunk to all engines; returns when they have loaded it.

        ``data``, if any, are the bytes that this process keeps at ``path``. With ``stay`` they
        remain there until the update ends, and engines of this node are only awaited then.
        """
        here = ray.get_runtime_context().get_node_id()
        near = {key: value for key, value in update_info.items() if key not in ("data", "stay")}
        chunks = dict.fromkeys(self._active, near)
        far = [name for name in chunks if self._nodes[name] != here]
        if "data" in update_info:
            chunks |= self._carry(update_info, far)
        self._loading.append(self._call(lambda name, w: w.update_weights.remote(chunks[name])))
        if far or not update_info.get("stay"):
            self._end_loading()

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End the update; the engines answer under the new version."""
        self._end_loading()
        self._fan_out("finish_update", lambda _, w: w.finish_update.remote(self._version))

    def load_adapter(self, files: AdapterFiles) -> None:
        """Load a LoRA adapter beside the adapters that requests use; nothing pauses."""
        sent = ray.put(files)
        self._fan_out("load_adapter", lambda _, w: w.load_adapter.remote(self._version, sent))

    def _carry(self, update: dict[str, Any], far: list[str]) -> dict[str, Any]:
        """Send a chunk once to each other node, into the memory of its first worker. Returns the
        chunk for each worker there, with that memory's path."""
        if not far:
            return {}
        rest = {key: value for key, value in update.items() if key != "path"}
        chunk = ray.put({**rest, "digest": digest(update["data"])})
        first = {self._nodes[name]: name for name in reversed(far)}
        held = self._fan_out(
            "cache_chunk", lambda _, w: w.cache_chunk.remote(chunk), list(first.values())
        )
        for name in far:
            holder = first[self._nodes[name]]
            if holder not in held and name in self._active:
                self._drop(name, f"{holder} did not bring the weights to this node")
        return {name: held[first[self._nodes[name]]] for name in far if name in self._active}

    def _end_loading(self) -> None:
        loading, self._loading = self._loading, []
        answers = [self._answers("update_weights", calls) for calls in loading]
        # calls that were made one right after another wait for each other in the engine
        self.load_s += max((seconds for each in answers for seconds in each.values()), default=0.0)

    def _fan_out(
        self, what: str, call: Callable[[str, Any], Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Call the workers and return their answers. A worker that fails is dropped from the
        update.

        No worker left is no error: the caller reads ``failures``.
        """
        return self._answers(what, self._call(call, names))

    def _call(
        self, call: Callable[[str, Any], Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        names = self._active if names is None else names
        return {name: call(name, self._workers[name]) for name in names}

    def _answers(self, what: str, calls: dict[str, Any]) -> dict[str, Any]:
        """Await the answers of the workers that are still in the update."""
        deadline, answers = time.monotonic() + self._timeout_s, {}
        for name in [name for name in calls if name in self._active]:
            try:
                answers[name] = ray.get(calls[name], timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                self._drop(name, f"{what} did not end within {self._timeout_s:.0f} s")
            except (RayError, DeepIntuitError) as error:
                self._drop(name, f"{what}: {_first_line(error)}")
        return answers

    def _drop(self, name: str, why: str) -> None:
        self._active.remove(name)
        self.failures[name] = why


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"[:500]
