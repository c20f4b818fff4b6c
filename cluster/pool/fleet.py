"""Protocol of a fleet: what the supervisor of the pool asks of those who place and start workers.

cluster/actors/ray_fleet.py (Ray and vLLM) | cluster/simulation/workers.py (scripted)
    <- Fleet <- cluster/pool/supervisor.py
"""

from typing import Protocol

from cluster.pool.worker_health import Place
from wire.errors import PlacementError
from wire.types import PolicyVersion


class NoRoom(PlacementError):
    """The cluster has no place for a worker now."""


class Fleet(Protocol):
    """Places, starts, probes and ends workers.

    A method that fails raises WorkerLost (``why`` it is gone), DeadlineExceeded, GenerationError,
    WeightUpdateError or ParityError; any other error ends the run. The supervisor holds each call
    to a deadline of its own, and cancels one that is late.
    """

    async def room(self) -> int:
        """How many more workers could be placed now, beside those that have a place."""
        ...

    def request(self, count: int) -> None:
        """Ask an autoscaler, if there is one, for room for ``count`` workers in all."""
        ...

    async def start(self, name: str) -> Place:
        """Place a worker, new or one that has ended, and start its engine. Raises NoRoom, without a
        wait, where the cluster has no place for it."""
        ...

    async def probe(self, name: str) -> None:
        """Let the engine write one token; or see it write one of another request meanwhile, as an
        engine that is full takes no request and works all the same. Not answered by the actor."""
        ...

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one worker, without the others, and prove them. Returns their
        version; None where they come with the next update only. Nothing to bring to an engine that
        started with them."""
        ...

    async def stop(self, name: str) -> None:
        """End a worker, also one that answers nothing or was never started, and its engine's
        processes, and give its place back."""
        ...
