"""Weight sync: sends new weights to the engines and proves by the parity probe that they arrived.

    out of service -> pause, transfer, reset caches, resume -> parity probe -> in service

An engine whose update or probe (cluster/weight_sync/parity_probe.py) failed gets all weights once
more; if that fails too, the engine stays out of service until a later update succeeds. An engine
that starts between two updates gets the newest weights from the host copy, alone.
"""

import logging
from dataclasses import replace

from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.weight_sync.digest_check import DigestCheck
from cluster.weight_sync.newest import Newest, load_newest, require_proof
from cluster.weight_sync.parity_probe import ParityProbe
from cluster.weight_sync.prove_before_serving import WeightSyncReport, bring_engines_to
from learner.shared_prefix.rows import Row
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

log = logging.getLogger(__name__)


class WeightSync:
    """Weight sync of all weights: publishes the learner's weights under a new version."""

    def __init__(
        self,
        rollouts: RolloutPool,
        learner: LearnerGroup,
        probe: Row,
        tolerance: float,
        noise_factor: float | None = None,
    ) -> None:
        self._rollouts, self._learner = rollouts, learner
        self._probe = ParityProbe(probe, tolerance, noise_factor)
        self._digests = DigestCheck(rollouts)
        self._newest: Newest | None = None
        self._has_warned = False

    async def publish(self, version: PolicyVersion) -> WeightSyncReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts, self._newest = self._rollouts, None
        trusted = set(rollouts.in_service)
        with rollouts.updating(version):
            expected = await self._probe.expected(self._learner)
            sent: list[WeightSyncResult] = []

            async def send(names: list[str]) -> WeightSyncResult:
                result = await self._learner.publish(version, rollouts.engines(names))
                sent.append(result)
                return await self._digests.checked(result, names)

            async def prove(names: list[str]) -> list[float | str]:
                return await self._probe.outcomes(rollouts, names, expected)

            async def admit(name: str) -> None:
                rollouts.proven(name, version)

            report = await bring_engines_to(
                version,
                rollouts,
                send=send,
                prove=prove,
                admit=admit,
                drop=lambda name: None,  # all are out of service already
                trusted=trusted,
            )
        copy = sent[-1].copy
        if copy is not None:
            kept = WeightSyncResult(failures={}, figures={}, digests=sent[-1].digests)
            self._newest = Newest(version=version, expected=expected, copies=(copy,), sent=kept)
        elif not self._has_warned:
            self._has_warned = True
            log.warning(
                "no copy of the weights is kept: an engine that starts between two updates waits "
                "for the next one (docs/fleet.md says when a copy fits)"
            )
        return replace(report, figures=report.figures | self._probe.figures)

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring the newest weights to one engine from the host copy, and prove them; neither the
        learner nor another engine takes part. Returns their version; None where they come with the
        next update. Raises WeightUpdateError, ParityError, DeadlineExceeded, WorkerDied."""
        newest = self._newest
        if newest is None or not await load_newest(self._rollouts, name, newest):
            return None
        for fault in (await self._digests.checked(newest.sent, [name])).failures.values():
            raise WeightUpdateError(f"{name}: {fault}")
        await require_proof(name, self._probe.outcomes(self._rollouts, [name], newest.expected))
        return newest.version
