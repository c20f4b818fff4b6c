"""Protocol of a fleet: what the supervisor of the pool asks of those who place and start workers.

cluster/actors/ray_fleet.py (Ray and vLLM) | cluster/simulation/workers.py (scripted)
    <- Fleet <- cluster/pool/supervisor.py
"""

from typing import Protocol

from wire.types import PolicyVersion


class Fleet(Protocol):
    """Places, starts, probes and ends workers. Each wait has a deadline that names the worker.

    Methods that fail raise WorkerDied (``cause`` says of what), DeadlineExceeded, GenerationError,
    WeightUpdateError or ParityError.
    """

    async def room(self) -> int:
        """How many more workers could be placed now."""
        ...

    def request(self, count: int) -> None:
        """Ask an autoscaler, if there is one, for room for ``count`` workers in all."""
        ...

    async def start(self, name: str) -> None:
        """Place a worker, new or one that has ended, and start its engine."""
        ...

    async def probe(self, name: str) -> None:
        """Let the engine write one token."""
        ...

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one worker, without the others, and prove them. Returns their
        version; None where they come with the next update only."""
        ...

    async def stop(self, name: str) -> None:
        """End a worker that answers nothing any more, and give its place back."""
        ...
