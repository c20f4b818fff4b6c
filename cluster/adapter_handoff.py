"""New versions of a LoRA policy into the engines: the model once a stage, then adapters alone.

    model (where an engine lacks it) -> adapter, beside those in use -> parity probe -> served

Engines answer on while an adapter travels, and a trace ends with the adapter that it began with. An
engine that fails keeps the old one and gets model and adapter once more; if that fails too, it is
out of service until a later version succeeds.
"""

import logging

from cluster.actors import LearnerPool, RolloutPool
from cluster.handoff import HandoffReport
from cluster.hosts import Published
from cluster.probe import Probe
from learner.rows import Row
from wire.errors import DeadlineExceeded, WeightUpdateError, WorkerDied
from wire.types import PolicyVersion

log = logging.getLogger(__name__)

_TRIES = 2


class AdapterHandoff:
    """Publishes the learner's adapter under a new version."""

    def __init__(
        self, rollouts: RolloutPool, learner: LearnerPool, probe: Row, tolerance: float
    ) -> None:
        self._rollouts, self._learner = rollouts, learner
        self._probe = Probe(probe, tolerance)
        self._have_model = set[str]()

    def begin(self) -> None:
        """The learner has begun a stage: its adapter adds to another model from now on."""
        self._have_model.clear()

    async def publish(self, version: PolicyVersion) -> HandoffReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        waiting, failures = rollouts.names, dict[str, str]()
        worst, figures = 0.0, dict[str, float]()
        expected = await self._probe.expected(self._learner)
        for _ in range(_TRIES):
            if not waiting:
                break
            sent = await self._send(version, waiting)
            failures, figures = dict(sent.failures), figures or sent.figures
            sound = [name for name in waiting if name not in failures]
            outcomes = await self._probe.outcomes(rollouts, sound, expected, version)
            for name, outcome in zip(sound, outcomes, strict=True):
                if isinstance(outcome, str):
                    failures[name] = outcome
                    continue
                try:
                    await rollouts.serve_adapter(name, version)
                except (WeightUpdateError, DeadlineExceeded, WorkerDied) as error:
                    failures[name] = str(error)
                else:
                    worst = max(worst, outcome)
                    rollouts.admit(name)
            for name, why in failures.items():
                log.warning("%s did not come to version %s: %s", name, version, why)
                rollouts.withdraw(name)
                self._have_model.discard(name)
            waiting = await rollouts.find_alive(sorted(failures))
        if not rollouts.in_service:
            raise WeightUpdateError(
                f"no engine came to version {version} after {_TRIES} tries: {failures}"
            )
        return HandoffReport(
            max_logprob_diff=worst,
            num_out_of_service=rollouts.num_workers - len(rollouts.in_service),
            figures=figures,
        )

    async def _send(self, version: PolicyVersion, names: list[str]) -> Published:
        """Model, where it is lacking, and adapter."""
        lacking = [name for name in names if name not in self._have_model]
        sent = Published(failures={}, figures={})
        try:
            if lacking:
                for name in lacking:
                    self._rollouts.withdraw(name)
                sent = await self._learner.publish(version, lacking)
                self._have_model.update(name for name in lacking if name not in sent.failures)
            ready = [name for name in names if name not in sent.failures]
            adapter = await self._learner.publish_adapter(version, ready)
        except WeightUpdateError as error:
            return Published(failures=dict.fromkeys(names, str(error)), figures={})
        return Published(
            failures=sent.failures | adapter.failures, figures=adapter.figures | sent.figures
        )
