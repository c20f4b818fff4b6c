"""Proof before service: an engine gets a version in at most two tries, and serves once proven.

    send -> parity probe -> admit, engine by engine; those that failed and are alive once more

An engine that dies is no reason to fail: it starts anew meanwhile, and comes to this version by
itself. While none runs at all, the update waits for one.

The ways: the whole model (cluster/weight_sync/full_weights.py), a LoRA adapter
(cluster/weight_sync/adapter.py).
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass, replace

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
    """Metrics ``weights/...`` of the first sending, and ``weights/lost_s``: seconds of all tries in
    which an engine failed."""


async def bring_engines_to(
    version: PolicyVersion,
    rollouts: RolloutPool,
    *,
    send: Callable[[list[str]], Awaitable[WeightSyncResult]],
    prove: Callable[[list[str]], Awaitable[Sequence[float | str]]],
    admit: Callable[[str], Awaitable[None]],
    drop: Callable[[str], None],
    trusted: Set[str] | None = None,
) -> WeightSyncReport:
    """Bring every engine to ``version``. Raises WeightUpdateError if none could be.

    ``send`` raises WeightUpdateError if nobody got it. ``prove`` gives of each engine its largest
    difference from the learner, or why it is not to serve. ``admit`` lets an engine serve, or
    raises; ``drop`` is told of each that failed, in each try. Engines that only missed a sending
    because others of their group failed come first in the next one, without those. Engines that are
    not ``trusted`` (by default: not in service) come last, and have one try: they hold nobody up.
    """
    await rollouts.some_running()
    trusted = rollouts.in_service if trusted is None else trusted
    later = [name for name in rollouts.names if trusted and name not in trusted]
    waiting = [name for name in rollouts.names if name not in later]
    failures, tries = dict[str, str](), Counter(later)
    reached, figures, lost_s = dict[str, float](), dict[str, float](), 0.0
    while waiting:
        began = time.monotonic()
        sent = await _sent(send, waiting)
        failed, figures = dict(sent.failures), figures or sent.figures
        sound = [name for name in waiting if name not in failed and name not in sent.untried]
        admitted, refused = await _admitted(sound, await prove(sound), admit)
        failed |= refused
        lost_s += time.monotonic() - began if failed else 0.0
        for name, why in failed.items():
            log.warning("%s did not come to version %s: %s", name, version, why)
            drop(name)
        reached |= admitted
        failures = {n: why for n, why in failures.items() if n not in admitted} | failed
        tries.update(failed.keys())
        alive = await rollouts.find_alive([*sent.untried, *sorted(failures)])
        again = [name for name in alive if name in failures and tries[name] < _TRIES]
        waiting = [name for name in alive if name in sent.untried] or again
        if not waiting:
            waiting, later = later, []
    alive = await rollouts.find_alive(sorted(failures))
    for name in failures:
        rollouts.update_failed(name)
    if not reached and alive:
        raise WeightUpdateError(
            f"no engine came to version {version} after {_TRIES} tries: {failures}"
        )
    if not reached:  # all have died
        return await bring_engines_to(
            version, rollouts, send=send, prove=prove, admit=admit, drop=drop, trusted=frozenset()
        )
    return WeightSyncReport(
        max_logprob_diff=max(reached.values()),
        num_out_of_service=rollouts.num_workers - len(rollouts.in_service),
        figures=figures | {"weights/lost_s": lost_s} if lost_s else figures,
    )


async def _admitted(
    names: Sequence[str],
    outcomes: Sequence[float | str],
    admit: Callable[[str], Awaitable[None]],
) -> tuple[dict[str, float], dict[str, str]]:
    """Admit the engines that the probe proved. Returns the largest difference of each that serves,
    and why the others do not."""
    served, refused = dict[str, float](), dict[str, str]()
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, str):
            refused[name] = outcome
            continue
        try:
            await admit(name)
        except (WeightUpdateError, DeadlineExceeded, WorkerDied) as error:
            refused[name] = str(error)
        else:
            served[name] = outcome
    return served, refused


async def _sent(
    send: Callable[[list[str]], Awaitable[WeightSyncResult]], names: list[str]
) -> WeightSyncResult:
    try:
        sent = await send(names)
    except WeightUpdateError as error:
        return WeightSyncResult(failures=dict.fromkeys(names, str(error)), figures={})
    if sent.untried and not sent.failures:  # or it would be tried for ever
        blamed = dict.fromkeys(sent.untried, "its group failed for no reason that is known")
        return replace(sent, failures=blamed, untried=[])
    return sent
