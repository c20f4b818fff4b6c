"""Parity probe: proves that an engine computes with the same weights as the learner.

One fixed prompt and response. The learner computes its logprobs before it sends the weights, and
each engine must give the same ones after loading. Not at the same time: on a CPU learner and engine
would share the cores and wait for each other's threads, three times as long as one after the other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from learner.shared_prefix.rows import Response, Row
from wire.errors import DeadlineExceeded, GenerationError, WorkerDied
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion


class ParityProbe:
    """Compares logprobs of a row's only response on both sides; ``tolerance``: see
    :func:`largest_difference`.

    Example:
        expected = await probe.expected(learner)
        ...  # new weights go to the engines
        outcomes = await probe.outcomes(rollouts, ["rollout-0"], expected)
    """

    def __init__(self, row: Row, tolerance: float) -> None:
        only = replace(row.responses[0], trains=False)
        self._row, self._tolerance = replace(row, responses=(only,)), tolerance

    async def expected(self, learner: LearnerGroup) -> Sequence[float]:
        """The learner's logprobs now, nats."""
        return (await learner.logprobs([self._row]))[0][0]

    async def outcomes(
        self,
        rollouts: RolloutPool,
        names: Sequence[str],
        expected: Sequence[float],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float | str]:
        """Probe the engines, all at the same time. Returns each one's largest difference from the
        learner, or the reason why it must not serve. ``adapter_of``: probe with that version's
        adapter, which need not serve yet."""
        asked = [self._outcome(rollouts, name, expected, adapter_of) for name in names]
        return await asyncio.gather(*asked)

    async def _outcome(
        self,
        rollouts: RolloutPool,
        name: str,
        expected: Sequence[float],
        adapter_of: PolicyVersion | None,
    ) -> float | str:
        row, response = self._row, self._row.responses[0].token_ids
        try:
            logprobs = await rollouts.logprobs(name, row.video, row.prompt, response, adapter_of)
        except (GenerationError, DeadlineExceeded, WorkerDied) as error:
            return str(error)
        worst = largest_difference(logprobs, expected)
        if worst <= self._tolerance:  # not so for NaN
            return worst
        return (
            f"logprobs differ by {worst:.3g} from the learner's, {self._tolerance:.2g} is allowed: "
            "the engine does not hold the weights that were sent"
        )


def largest_difference(logprobs: Sequence[float], expected: Sequence[float]) -> float:
    """Largest |logprob - expected| / max(1, |expected|): float32 rounds a logprob of -15 fifteen
    times as much."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(logprobs, expected, strict=True))


def probe_row(row: Row, token_ids: tuple[int, ...]) -> Row:
    """The probe's row: a fixed response to the prompt of ``row``."""
    return replace(row, responses=(Response(token_ids=TokenIds(token_ids)),))
