"""Host copy of the newest weights: buckets in Ray's object store, for an engine that joins later.

publish -> rank 0 puts each bucket once -> HostCopy -> an engine that (re)starts, alone

Learner and other engines take no part and wait for nothing. The objects are rank 0's: they end with
it, or once nobody holds the copy.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError

from cluster.actors.deadlines import with_deadline
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

PLACES = 2
"""Buckets that a node holds at once: one is loaded while one arrives."""


class CopyLost(WeightUpdateError):
    """The host copy is gone: its learner rank has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCopy:
    """Host copy of a whole model's weights."""

    version: PolicyVersion
    chunks: tuple[Any, ...]
    """References to the buckets, in their order."""

    async def load_into(self, name: str, actor: Any, timeout_s: float) -> None:
        """Load the weights into one engine. ``timeout_s``: of each bucket. Raises CopyLost,
        WeightUpdateError, DeadlineExceeded, WorkerDied."""
        what = f"{name} to load a copy of the weights of version {self.version}"
        last = actor.begin_update.remote()
        loading: list[Any] = []
        for number, chunk in enumerate(self.chunks):
            if number >= PLACES:  # then its place is free
                await _answer(loading[number - PLACES], timeout_s, what)
            held = actor.hold.remote(chunk, number % PLACES)
            last = actor.update_weights.remote(held, last)
            loading.append(last)
        await _answer(actor.finish_update.remote(self.version, last), timeout_s, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCopy:
    """Host copy of a LoRA adapter."""

    version: PolicyVersion
    files: Any
    """Reference to its files."""

    async def load_into(self, name: str, actor: Any, timeout_s: float) -> None:
        """Load the adapter into one engine, beside those it has; errors as of HostCopy."""
        what = f"{name} to load a copy of the adapter of version {self.version}"
        await _answer(actor.load_adapter.remote(self.version, self.files), timeout_s, what)


async def _answer(call: Awaitable[Any], timeout_s: float, what: str) -> None:
    try:
        await with_deadline(call, timeout_s, what)
    except ObjectLostError as error:
        raise CopyLost(f"waited for {what}: {error}".partition("\n")[0]) from error
