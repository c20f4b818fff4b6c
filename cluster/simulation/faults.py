"""Faults and changes of a simulated fleet: who dies or hangs when, and how many workers there is
room for."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wire.types import stable_seed

FaultKind = Literal["engine_died", "engine_hangs", "node_died", "rank_died"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomChange:
    """A moment from which the cluster has room for another number of workers.

    Example:
        RoomChange(at_s=7200.0, workers=20)
    """

    at_s: float
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """Mean seconds between faults, each exponential; None: never."""

    worker_mtbf_s: float | None = None
    """Of one worker's engine: it dies, or hangs."""
    hang_frac: float = 0.2
    """Share of these that hang: they answer nothing, and their process lives."""
    node_mtbf_s: float | None = None
    """Of one node: its workers die with it."""
    node_back_s: float = 600.0
    """Until there is room again for the workers of a node that died."""
    rank_mtbf_s: float | None = None
    """Of one learner rank."""
    changes: tuple[RoomChange, ...] = ()
    """Room for workers over time, such as spot machines at night."""

    @property
    def any(self) -> bool:
        """Whether anything ever happens."""
        return bool(self.changes) or any((self.worker_mtbf_s, self.node_mtbf_s, self.rank_mtbf_s))


def times_of(seed: int, who: str, mtbf_s: float | None) -> Iterator[float]:
    """Moments at which one worker, node or rank fails, in seconds from the start, for ever. They
    depend on its name alone, so that more workers change nothing for the first ones."""
    if mtbf_s is None:
        return
    draw = random.Random(stable_seed("fault", seed, who))
    now = 0.0
    while math.isfinite(now):
        now += draw.expovariate(1 / mtbf_s)
        yield now
