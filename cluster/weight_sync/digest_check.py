"""Digest check: proves that an engine was given, bit for bit, the weights that the learner sent,
and that what it keeps changed when they did.

    learner's digests as sent + engine's as loaded and as kept -> None, or why it must not serve

It does not prove that the engine computes with what it keeps: that is the parity probe's part.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.rollout_pool import RolloutPool
from rollout.engine import WeightDigests
from wire.errors import DeadlineExceeded, WeightUpdateError, WorkerDied


@dataclass(frozen=True, slots=True)
class _Kept:
    sent: Mapping[str, int]
    resident: tuple[int, ...]


class DigestCheck:
    """Digests of every engine's weights, update after update."""

    def __init__(self, rollouts: RolloutPool) -> None:
        self._rollouts = rollouts
        self._kept: dict[str, _Kept] = {}

    async def checked(self, result: WeightSyncResult, names: Sequence[str]) -> WeightSyncResult:
        """The result of a sending to these engines, with those among the failures whose weights are
        not the ones that were sent. Nothing is asked where nothing was recorded."""
        if not result.digests:
            return result
        without = {*result.failures, *result.untried}
        reached = [name for name in names if name not in without]
        asked = [self._fault(name, result.digests) for name in reached]
        faults = dict(zip(reached, await asyncio.gather(*asked), strict=True))
        wrong = {name: fault for name, fault in faults.items() if fault}
        return replace(result, failures=result.failures | wrong)

    async def _fault(self, name: str, sent: Mapping[str, int]) -> str | None:
        try:
            ranks = await self._rollouts.weight_digests(name)
        except (WeightUpdateError, DeadlineExceeded, WorkerDied) as error:
            return str(error)
        fault = next((fault for rank in ranks if (fault := _difference(sent, rank))), None)
        if fault:
            return fault
        now = _Kept(sent, tuple(rank.resident for rank in ranks))
        before = self._kept.get(name, now)
        if (now.sent == before.sent) != (now.resident == before.resident):
            changed = "did not change" if now.resident == before.resident else "changed"
            others = "did" if now.resident == before.resident else "did not"
            return (
                f"the weights that the engine keeps {changed} with this update, those that were "
                f"sent {others}: it loaded them to where it does not keep them"
            )
        self._kept[name] = now
        return None


def _difference(sent: Mapping[str, int], rank: WeightDigests) -> str | None:
    """How what an engine loaded differs from what was sent."""
    wrong = sorted(name for name in sent if rank.loaded.get(name) != sent[name])
    more = sorted(rank.loaded.keys() - sent.keys())
    if not wrong and not more:
        return None
    example = (wrong or more)[0]
    what = "was not loaded" if example not in rank.loaded else "has other values"
    return (
        f"{len(wrong) + len(more)} of {len(sent)} tensors that the engine loaded are not those "
        f"that were sent; {example} {what if wrong else 'was not sent'}"
    )
