"""Newest weights as an engine gets them that joins after the update: a host copy, and its proof.

publish -> Newest: version, host copy, what the learner answered the probe -> catch_up(engine)
"""

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from cluster.actors.host_copy import AdapterCopy, CopyLost, HostCopy
from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.rollout_pool import RolloutPool
from wire.errors import ParityError
from wire.types import PolicyVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """Newest weights that were published."""

    version: PolicyVersion
    expected: Sequence[float]
    """The learner's logprobs of the parity probe with them, nats."""
    copies: tuple[HostCopy | AdapterCopy, ...]
    """All that an engine has to load, in this order."""
    sent: WeightSyncResult
    """Whose digests the engine's must be."""


async def load_newest(rollouts: RolloutPool, name: str, newest: Newest) -> bool:
    """Load the newest weights into one engine. Returns False if their copy is gone. Raises
    WeightUpdateError, DeadlineExceeded, WorkerDied."""
    try:
        for copy in newest.copies:
            await rollouts.load(name, copy)
    except CopyLost as error:
        log.warning("%s gets weights with the next update: %s", name, error)
        return False
    return True


async def require_proof(name: str, outcomes: Awaitable[Sequence[float | str]]) -> None:
    """Raise ParityError if the probe's outcome of an engine is a fault."""
    (outcome,) = await outcomes
    if isinstance(outcome, str):
        raise ParityError(f"{name}: {outcome}")
