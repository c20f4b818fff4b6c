"""New weights into the engines, and the proof that they arrived.

    out of service -> pause, transfer, reset caches, resume -> parity probe -> in service

An engine whose update or probe (cluster/probe.py) failed gets everything once more; if that fails
too it stays out of service until a later update succeeds. One whose process has ended is not asked
again.
"""

import logging
from dataclasses import dataclass

from cluster.actors import LearnerPool, RolloutPool
from cluster.hosts import Published
from cluster.probe import Probe
from learner.rows import Row
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

log = logging.getLogger(__name__)

_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffReport:
    """What became of one update."""

    max_logprob_diff: float
    """Largest difference of a probe token, nats, over the engines in service."""
    num_out_of_service: int
    figures: dict[str, float]
    """Metrics ``weights/...`` of the first sending."""


class Handoff:
    """Publishes the learner's weights under a new version."""

    def __init__(
        self, rollouts: RolloutPool, learner: LearnerPool, probe: Row, tolerance: float
    ) -> None:
        self._rollouts, self._learner = rollouts, learner
        self._probe = Probe(probe, tolerance)

    async def publish(self, version: PolicyVersion) -> HandoffReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        rollouts.take_out_of_service()
        waiting, failures = rollouts.names, dict[str, str]()
        worst, figures = 0.0, dict[str, float]()
        expected = await self._probe.expected(self._learner)
        for _ in range(_TRIES):
            if not waiting:
                break
            sent = await self._send(version, waiting)
            failures, figures = dict(sent.failures), figures or sent.figures
            sound = [name for name in waiting if name not in failures]
            outcomes = await self._probe.outcomes(rollouts, sound, expected)
            for name, outcome in zip(sound, outcomes, strict=True):
                if isinstance(outcome, str):
                    failures[name] = outcome
                else:
                    worst = max(worst, outcome)
                    rollouts.admit(name)
            for name, why in failures.items():
                log.warning("%s did not come to version %s: %s", name, version, why)
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
        try:
            return await self._learner.publish(version, names)
        except WeightUpdateError as error:
            return Published(failures=dict.fromkeys(names, str(error)), figures={})
