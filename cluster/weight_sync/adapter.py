"""Adapter sync: sends new versions of a LoRA policy to the engines, the model once a stage, then
only adapters.

    model (where an engine lacks it) -> adapter, beside those in use -> parity probe -> served

Engines go on answering while an adapter is sent, and a trace ends with the adapter that it began
with. An engine that fails keeps the old adapter and gets model and adapter once more; if that fails
too, the engine is out of service until a later version succeeds.
"""

from dataclasses import replace
from functools import partial

from cluster.actors.host_copy import AdapterCopy, HostCopy
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

_NOTHING_SENT = WeightSyncResult(failures={}, figures={})


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
        self._model: HostCopy | AdapterCopy | None = None
        self._model_sent = _NOTHING_SENT
        self._adapter: HostCopy | AdapterCopy | None = None
        self._newest: Newest | None = None

    def begin(self) -> None:
        """Note that the learner began a stage: its adapter belongs to another model from now on."""
        self._have_model.clear()
        self._model = self._newest = None

    async def publish(self, version: PolicyVersion) -> WeightSyncReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts, self._newest = self._rollouts, None
        expected = await self._probe.expected(self._learner)

        async def prove(names: list[str]) -> list[float | str]:
            return await self._probe.outcomes(rollouts, names, expected, version)

        async def admit(name: str) -> None:
            await rollouts.serve_adapter(name, version)
            rollouts.proven(name, version)

        with rollouts.updating(version, others_serve=True):
            report = await bring_engines_to(
                version,
                rollouts,
                send=partial(self._send, version),
                prove=prove,
                admit=admit,
                drop=self._have_model.discard,
            )
        if self._model is not None and self._adapter is not None:
            self._newest = Newest(
                version=version,
                expected=expected,
                copies=(self._model, self._adapter),
                sent=self._model_sent,
            )
        return replace(report, figures=report.figures | self._probe.figures)

    async def catch_up(self, name: str) -> PolicyVersion | None:
        """Bring model and newest adapter to one engine, as WeightSync.catch_up does."""
        self._have_model.discard(name)  # the engine is a new one
        newest, model, rollouts = self._newest, self._model, self._rollouts
        if newest is None or not await load_newest(rollouts, name, newest):
            return None
        for fault in (await self._digests.checked(newest.sent, [name])).failures.values():
            raise WeightUpdateError(f"{name}: {fault}")
        version = newest.version
        proof = self._probe.outcomes(rollouts, [name], newest.expected, version)
        await require_proof(name, proof)
        await rollouts.serve_adapter(name, version)
        if self._model is model:  # else a stage began meanwhile, of another model
            self._have_model.add(name)
        return version

    async def _send(self, version: PolicyVersion, names: list[str]) -> WeightSyncResult:
        """Send the model to engines that lack it, then the adapter to all."""
        lacking = [name for name in names if name not in self._have_model]
        sent = WeightSyncResult(failures={}, figures={})
        if lacking:
            self._rollouts.withhold(lacking)
            sent = await self._learner.publish(version, self._rollouts.engines(lacking))
            self._model = sent.copy
            self._model_sent = WeightSyncResult(failures={}, figures={}, digests=sent.digests)
            sent = await self._digests.checked(sent, lacking)
        without = {*sent.failures, *sent.untried}
        self._have_model.update(name for name in lacking if name not in without)
        ready = [name for name in names if name not in without]
        adapter = await self._learner.publish_adapter(version, self._rollouts.engines(ready))
        self._adapter = adapter.copy
        return WeightSyncResult(
            failures=sent.failures | adapter.failures,
            untried=sent.untried,
            figures=adapter.figures | sent.figures,
        )
