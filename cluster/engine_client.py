"""vLLM's weight-sync protocol over Ray: one update fanned out to every rollout worker, each
failure kept apart.

An engine that fails leaves the update and is reported; the others go on. Every wait has a deadline
and names whom it
waited for.
"""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from wire.adapters import AdapterFiles
from wire.errors import DeepIntuitError, WeightUpdateError
from wire.types import PolicyVersion


class EngineClient:
    """Used by rank 0 of the learner. Implements vLLM's ``VLLMWeightSyncClient``."""

    def __init__(self, workers: dict[str, Any], ranks_per_engine: int, timeout_s: float) -> None:
        self._workers = workers
        self._ranks_per_engine = ranks_per_engine
        self._timeout_s = timeout_s
        self._version = PolicyVersion(attempt=0, step=0)
        self._active = list(workers)
        self.failures: dict[str, str] = {}
        """Workers that left the last update, and why."""

    def open(self, version: PolicyVersion, names: list[str]) -> None:
        """Say which workers get the next update, and what version it makes them."""
        self._version, self._active, self.failures = version, list(names), {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Rendezvous. NCCL ranks are numbered through all engines."""

        def call(index: int, worker: Any) -> Any:
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self._ranks_per_engine
            return worker.init_transfer.remote(info)

        self._fan_out("init_transfer", call)

    def start_weight_update(self) -> None:
        """Pause the engines and open the update."""
        self._fan_out("begin_update", lambda _, worker: worker.begin_update.remote())

    def update_weights(self, update_info: Any) -> None:
        """One chunk; its bytes enter the object store once, however many engines read them."""
        chunk = ray.put(update_info)
        self._fan_out("update_weights", lambda _, worker: worker.update_weights.remote(chunk))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update; the engines answer under the new version."""
        self._fan_out("finish_update", lambda _, w: w.finish_update.remote(self._version))

    def load_adapter(self, files: AdapterFiles) -> None:
        """A LoRA adapter, beside those that requests use; nothing pauses."""
        sent = ray.put(files)
        self._fan_out("load_adapter", lambda _, w: w.load_adapter.remote(self._version, sent))

    def _fan_out(self, what: str, call: Callable[[int, Any], Any]) -> None:
        names = list(self._workers)
        calls = {name: call(names.index(name), self._workers[name]) for name in self._active}
        deadline = time.monotonic() + self._timeout_s
        for name, reference in calls.items():
            try:
                ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                self._drop(name, f"{what} did not end within {self._timeout_s:.0f} s")
            except (RayError, DeepIntuitError) as error:
                self._drop(name, f"{what}: {_first_line(error)}")
        if not self._active and what == "init_transfer":
            raise WeightUpdateError(f"no rollout worker met the learner: {self.failures}")
        # Later, nobody left is no error here: rank 0 must gather to the end with the other ranks,
        # or the next try would pair different parameters. Who asked reads ``failures``.

    def _drop(self, name: str, why: str) -> None:
        self._active.remove(name)
        self.failures[name] = why


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"[:500]
