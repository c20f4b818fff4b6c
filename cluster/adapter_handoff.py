"""New versions of a LoRA policy into the engines: the model once a stage, then adapters alone.

    model (where an engine lacks it) -> adapter, beside those in use -> parity probe -> served

Engines answer on while an adapter travels, and a trace ends with the adapter that it began with. An
engine that fails keeps the old one and gets model and adapter once more; if that fails too, it is
out of service until a later version succeeds.
"""

import logging
from dataclasses import replace

from cluster.actors import LearnerPool, RolloutPool
from cluster.handoff import HandoffReport, largest_difference
from cluster.hosts import Published
from learner.rows import Row
from wire.errors import (
    DeadlineExceeded,
    GenerationError,
    ParityError,
    WeightUpdateError,
    WorkerDied,
)
from wire.types import PolicyVersion

log = logging.getLogger(__name__)

_TRIES = 2
_FAILURES = (
    ParityError,
    GenerationError,
    DeadlineExceeded,
    WeightUpdateError,
    WorkerDied,
)


class AdapterHandoff:
    """Publishes the learner's adapter under a new version."""

    def __init__(
        self, rollouts: RolloutPool, learner: LearnerPool, probe: Row, tolerance: float
    ) -> None:
        self._rollouts, self._learner = rollouts, learner
        self._tolerance = tolerance
        only = replace(probe.responses[0], trains=False)
        self._probe = replace(probe, responses=(only,))
        self._have_model = set[str]()

    def begin(self) -> None:
        """The learner has begun a stage: its adapter adds to another model from now on."""
        self._have_model.clear()

    async def publish(self, version: PolicyVersion) -> HandoffReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        waiting, failures = rollouts.names, dict[str, str]()
        worst, figures = 0.0, dict[str, float]()
        expected = (await self._learner.logprobs([self._probe]))[0][0]
        for _ in range(_TRIES):
            if not waiting:
                break
            sent = await self._send(version, waiting)
            failures, figures = dict(sent.failures), figures or sent.figures
            for name in [n for n in waiting if n not in failures]:
                try:
                    worst = max(worst, await self._verify(name, version, expected))
                    await rollouts.serve_adapter(name, version)
                    rollouts.admit(name)
                except _FAILURES as error:
                    failures[name] = str(error)
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

    async def _verify(self, name: str, version: PolicyVersion, expected: list[float]) -> float:
        """Largest difference of the probe. Raises ParityError beyond the tolerance."""
        row = self._probe
        found = await self._rollouts.logprobs(
            name, row.video, row.prompt, row.responses[0].token_ids, version
        )
        worst = largest_difference(found, expected)
        if not worst <= self._tolerance:  # also catches NaN
            raise ParityError(
                f"logprobs differ by {worst:.3g} from the learner's, {self._tolerance:.2g} is "
                "allowed: the engine does not compute with the adapter that was sent"
            )
        return worst
