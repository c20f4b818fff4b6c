"""Weight sync: sends new weights to the engines and proves by the parity probe that they arrived.

    out of service -> pause, transfer, reset caches, resume -> parity probe -> in service

An engine whose update or probe (cluster/weight_sync/parity_probe.py) failed gets all weights once
more; if that fails too, the engine stays out of service until a later update succeeds. An engine
whose process has ended gets no further update.
"""

from dataclasses import replace

from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.weight_sync.digest_check import DigestCheck
from cluster.weight_sync.parity_probe import ParityProbe
from cluster.weight_sync.prove_before_serving import WeightSyncReport, bring_engines_to
from learner.shared_prefix.rows import Row
from wire.types import PolicyVersion


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

    async def publish(self, version: PolicyVersion) -> WeightSyncReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        trusted = set(rollouts.in_service)
        rollouts.take_all_out_of_service()
        expected = await self._probe.expected(self._learner)

        async def send(names: list[str]) -> WeightSyncResult:
            result = await self._learner.publish(version, rollouts.engines(names))
            return await self._digests.checked(result, names)

        async def prove(names: list[str]) -> list[float | str]:
            return await self._probe.outcomes(rollouts, names, expected)

        async def admit(name: str) -> None:
            rollouts.put_in_service(name)

        report = await bring_engines_to(
            version,
            rollouts,
            send=send,
            prove=prove,
            admit=admit,
            drop=lambda name: None,  # all are out of service already
            trusted=trusted,
        )
        return replace(report, figures=report.figures | self._probe.figures)
