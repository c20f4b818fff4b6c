"""New weights into the engines, and the proof that they arrived.

    out of service -> pause, transfer, reset caches, resume -> parity probe -> in service

The probe is one fixed prompt and response: learner and engines compute its logprobs at the same
time, and every engine must give the learner's. An engine whose update or probe failed gets
everything once more; if that fails too it stays out of service until a later update succeeds. One
whose process has ended is not asked again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.actors import LearnerPool, RolloutPool
from cluster.hosts import Published
from learner.rows import Response, Row
from wire.errors import (
    DeadlineExceeded,
    GenerationError,
    WeightUpdateError,
    WorkerDied,
)
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
        self._tolerance = tolerance
        only = replace(probe.responses[0], trains=False)
        self._probe = replace(probe, responses=(only,))

    async def publish(self, version: PolicyVersion) -> HandoffReport:
        """Bring every engine to ``version``. Raises WeightUpdateError if none could be."""
        rollouts = self._rollouts
        rollouts.take_out_of_service()
        waiting, failures = rollouts.names, dict[str, str]()
        worst, figures = 0.0, dict[str, float]()
        for _ in range(_TRIES):
            if not waiting:
                break
            sent = await self._send(version, waiting)
            failures, figures = dict(sent.failures), figures or sent.figures
            sound = [name for name in waiting if name not in failures]
            for name, outcome in zip(sound, await self._differences(sound), strict=True):
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

    async def _differences(self, names: Sequence[str]) -> list[float | str]:
        """Of each engine from the learner, who answer side by side: the largest, or why the engine
        is not to serve."""
        if not names:
            return []
        asked = asyncio.gather(*[self._ask(name) for name in names])
        (((expected,),), answers) = await asyncio.gather(
            self._learner.logprobs([self._probe]), asked
        )
        return [a if isinstance(a, str) else self._judge(a, expected) for a in answers]

    async def _ask(self, name: str) -> list[float] | str:
        """An engine's logprobs of the probe, or why there are none."""
        row = self._probe
        response = row.responses[0].token_ids
        try:
            return await self._rollouts.logprobs(name, row.video, row.prompt, response)
        except (GenerationError, DeadlineExceeded, WorkerDied) as error:
            return str(error)

    def _judge(self, found: Sequence[float], expected: Sequence[float]) -> float | str:
        worst = largest_difference(found, expected)
        if worst <= self._tolerance:  # not so for NaN
            return worst
        return (
            f"logprobs differ by {worst:.3g} from the learner's, {self._tolerance:.2g} is allowed: "
            "the engine does not hold the weights that were sent"
        )


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest |found - expected| / max(1, |expected|): float32 rounds a logprob of -15 fifteen
    times as much."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=True))


def probe_row(row: Row, token_ids: tuple[int, ...]) -> Row:
    """A row that asks about a fixed response to a row's prompt."""
    return replace(row, responses=(Response(token_ids=token_ids),))
