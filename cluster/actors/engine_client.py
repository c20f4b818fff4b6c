"""Engine clients: vLLM's weight-sync protocol over Ray, used by rank 0 of the learner.

An engine that fails leaves the update and is reported; the others go on. Every call has a deadline,
and its error names engine and call. Three ways of sending: buckets (bucket_client.py), and here
one by one (``ipc``) and as a group in which all wait for all (``nccl``).
"""

import time
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.actors.engine_calls import EngineCalls, EngineSet, first_failure, first_line
from cluster.actors.host_copy import AdapterCopy, HostCopy
from wire.adapters import AdapterFiles
from wire.engine_group import GIVEN_UP, Membership
from wire.errors import DeepIntuitError, WeightUpdateError
from wire.types import PolicyVersion


class UpdateClient(Protocol):
    """Client of one kind of transfer, as the learner's ranks use it."""

    @property
    def load_s(self) -> float:
        """Seconds that the slowest engine spent loading the last update."""

    @property
    def failures(self) -> dict[str, str]:
        """Engines that left the last update, and why."""

    @property
    def untried(self) -> list[str]:
        """Sound engines that did not get the last update because others failed."""

    @property
    def copy(self) -> HostCopy | AdapterCopy | None:
        """Copy of what the last update brought, for engines that join later; None: they wait for
        the next update."""

    def open(self, version: PolicyVersion, engines: EngineSet) -> None:
        """Choose the engines of the next update, and the version that it brings."""

    def load_adapter(self, files: AdapterFiles) -> None:
        """Load a LoRA adapter beside the adapters that requests use; nothing pauses."""


class EngineClient:
    """Client of engines that take an update each on its own. Implements vLLM's
    ``VLLMWeightSyncClient``."""

    def __init__(self, update_timeout_s: float) -> None:
        """``update_timeout_s``: of an engine's step of an update."""
        self.update_timeout_s = update_timeout_s
        # longer than the engine's own deadline
        self._timeout_s = update_timeout_s + 30
        self._engines = EngineSet(epoch=0, actors={})
        self._calls = EngineCalls({}, self._timeout_s)
        self._version = PolicyVersion(attempt=0, step=0)
        self.untried: list[str] = []
        self.copy: HostCopy | AdapterCopy | None = None
        self.load_s = 0.0

    def open(self, version: PolicyVersion, engines: EngineSet) -> None:
        """Choose the engines of the next update, and the version that it brings."""
        self._version, self._engines = version, engines
        self._calls = EngineCalls(engines.actors, self._timeout_s)
        self.untried, self.copy, self.load_s = [], None, 0.0

    @property
    def failures(self) -> dict[str, str]:
        """Engines that left the last update, and why."""
        return self._calls.failures

    @property
    def membership(self) -> Membership:
        """The engines of the update."""
        return self._engines.membership

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Tell the engines how weights will come."""
        self._calls.ask("init_transfer", lambda _, w: w.init_transfer.remote(init_info))

    def start_weight_update(self) -> None:
        """Pause the engines and open the update."""
        self._calls.ask("begin_update", lambda _, worker: worker.begin_update.remote())

    def update_weights(self, update_info: Any) -> None:
        """Send one chunk to all engines; returns when they have loaded it."""
        loading = self._calls.ask(
            "update_weights", lambda _, w: w.update_weights.remote(update_info)
        )
        self.load_s += max(loading.values(), default=0.0)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End the update; the engines answer under the new version."""
        self._calls.ask("finish_update", lambda _, w: w.finish_update.remote(self._version))

    def load_adapter(self, files: AdapterFiles) -> None:
        """Load a LoRA adapter beside the adapters that requests use; nothing pauses."""
        sent = ray.put(files)
        self._calls.ask("load_adapter", lambda _, w: w.load_adapter.remote(self._version, sent))
        self.copy = AdapterCopy(version=self._version, files=sent)


class GroupEngineClient(EngineClient):
    """Client of engines that form one group: a call fails as soon as one engine fails it, because
    the others then wait for that one in vain."""

    def __init__(self, update_timeout_s: float) -> None:
        super().__init__(update_timeout_s)
        self._last: dict[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the engines join the group, each with its rank. Raises WeightUpdateError."""
        members = self.membership

        def call(name: str, worker: Any) -> Any:
            rank = members.first_rank(name)
            return worker.init_transfer.remote({**init_info, "rank_offset": rank})

        self._together("init_transfer", self._calls.start(call))

    def start_weight_update(self) -> None:
        """Pause the engines and open the update. Raises WeightUpdateError."""
        starting = self._calls.start(lambda _, worker: worker.begin_update.remote())
        self._together("begin_update", starting)

    def update_weights(self, update_info: Any) -> None:
        """Let the engines receive what is broadcast. Raises WeightUpdateError."""
        loading = self._calls.start(lambda _, w: w.update_weights.remote(update_info))
        self._together("update_weights", loading)
        self.load_s = max(self._calls.answers("update_weights", loading).values(), default=0.0)

    def find_unsound(self, within_s: float) -> dict[str, str]:
        """Engines whose last call failed by itself, or is still under way then, with reasons."""
        unsound = dict[str, str]()
        deadline = time.monotonic() + within_s
        for name, ref in self._last.items():
            try:
                ray.get(ref, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                unsound[name] = "no answer, although its group was given up"
            except (RayError, DeepIntuitError) as error:
                if GIVEN_UP not in str(error):
                    unsound[name] = first_line(error)
        return unsound

    def break_up(self, culprits: dict[str, str], why: str) -> None:
        """Note that nobody got the weights, by the fault of ``culprits``; of all, if there are
        none."""
        guilty = culprits or dict.fromkeys(self._calls.active, why)
        for name, reason in guilty.items():
            self._calls.drop(name, reason)
        self.untried = list(self._calls.active)

    def _together(self, what: str, calls: dict[str, Any]) -> None:
        self._last = calls
        if failure := first_failure(calls, self._timeout_s):
            raise WeightUpdateError(f"{what}: {failure}")
