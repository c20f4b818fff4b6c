"""Adapter sync: sends new versions of a LoRA policy to the engines, the model once a stage, then
only adapters.

    model (where an engine lacks it) -> adapter, beside those in use -> parity probe -> served

Engines go on answering while an adapter is sent, and a trace ends with the adapter that it began
with. An engine that fails keeps the old adapter and gets model and adapter once more; if that fails
too, the engine is out of service until a later version succeeds.
"""

from dataclasses import replace
from functools import partial

from cluster.actors.learner_actor import WeightSyncResult
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.weight_sync.digest_check import DigestCheck
from cluster.weight_sync.parity_probe import ParityProbe
from cluster.weight_sync.prove_before_serving import WeightSyncReport, bring_engines_to
from learner.shared_prefix.rows import Row
from wire.types import PolicyVersion


class AdapterSync:
    """Weight sync with LoRA: publishes the learner's adapter under a new version."""

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
        self._have_model = set[str]()

    def begin(self) -> None:
        """Note that the learner began a stage: its adapter belongs to another model from now on."""
        self._have_model.clear()

    async def publish(self, version: PolicyVersion) -> WeightSyncReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        expected = await self._probe.expected(self._learner)

        async def prove(names: list[str]) -> list[float | str]:
            return await self._probe.outcomes(rollouts, names, expected, version)

        async def admit(name: str) -> None:
            await rollouts.serve_adapter(name, version)
            rollouts.put_in_service(name)

        def drop(name: str) -> None:
            rollouts.take_out_of_service(name)
            self._have_model.discard(name)

        report = await bring_engines_to(
            version,
            rollouts,
            send=partial(self._send, version),
            prove=prove,
            admit=admit,
            drop=drop,
        )
        return replace(report, figures=report.figures | self._probe.figures)

    async def _send(self, version: PolicyVersion, names: list[str]) -> WeightSyncResult:
        """Send the model to engines that lack it, then the adapter to all."""
        lacking = [name for name in names if name not in self._have_model]
        sent = WeightSyncResult(failures={}, figures={})
        if lacking:
            for name in lacking:
                self._rollouts.take_out_of_service(name)
            sent = await self._learner.publish(version, self._rollouts.engines(lacking))
            sent = await self._digests.checked(sent, lacking)
        without = {*sent.failures, *sent.untried}
        self._have_model.update(name for name in lacking if name not in without)
        ready = [name for name in names if name not in without]
        adapter = await self._learner.publish_adapter(version, self._rollouts.engines(ready))
        return WeightSyncResult(
            failures=sent.failures | adapter.failures,
            untried=sent.untried,
            figures=adapter.figures | sent.figures,
        )
