"""Proof before service: an engine gets a version in at most two tries, and serves once proven.

    send -> parity probe -> admit, engine by engine; those that failed and are alive once more

The ways: the whole model (cluster/weight_sync/full_weights.py), a LoRA adapter
(cluster/weight_sync/adapter.py).
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.rollout_pool import RolloutPool
from wire.errors import DeadlineExceeded, WeightUpdateError, WorkerDied
from wire.types import PolicyVersion

log = logging.getLogger(__name__)

_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSyncReport:
    """What became of one update."""

    max_logprob_diff: float
    """Largest difference of a probe token, nats, over the engines in service."""
    num_out_of_service: int
    figures: dict[str, float]
    """Metrics ``weights/...`` of the first sending."""


async def bring_engines_to(
    version: PolicyVersion,
    rollouts: RolloutPool,
    *,
    send: Callable[[list[str]], Awaitable[WeightSyncResult]],
    prove: Callable[[list[str]], Awaitable[Sequence[float | str]]],
    admit: Callable[[str], Awaitable[None]],
    drop: Callable[[str], None],
) -> WeightSyncReport:
    """Bring every engine to ``version``. Raises WeightUpdateError if none could be.

    ``send`` raises WeightUpdateError if nobody got it. ``prove`` gives of each engine its largest
    difference from the learner, or why it is not to serve. ``admit`` lets an engine serve, or
    raises; ``drop`` is told of each that failed, in each try.
    """
    waiting, failures = rollouts.names, dict[str, str]()
    worst, figures = 0.0, dict[str, float]()
    for _ in range(_TRIES):
        if not waiting:
            break
        try:
            sent = await send(waiting)
        except WeightUpdateError as error:
            sent = WeightSyncResult(failures=dict.fromkeys(waiting, str(error)), figures={})
        failures, figures = dict(sent.failures), figures or sent.figures
        sound = [name for name in waiting if name not in failures]
        for name, outcome in zip(sound, await prove(sound), strict=True):
            if isinstance(outcome, str):
                failures[name] = outcome
                continue
            try:
                await admit(name)
            except (WeightUpdateError, DeadlineExceeded, WorkerDied) as error:
                failures[name] = str(error)
            else:
                worst = max(worst, outcome)
        for name, why in failures.items():
            log.warning("%s did not come to version %s: %s", name, version, why)
            drop(name)
        waiting = await rollouts.find_alive(sorted(failures))
    if not rollouts.in_service:
        raise WeightUpdateError(
            f"no engine came to version {version} after {_TRIES} tries: {failures}"
        )
    return WeightSyncReport(
        max_logprob_diff=worst,
        num_out_of_service=rollouts.num_workers - len(rollouts.in_service),
        figures=figures,
    )
