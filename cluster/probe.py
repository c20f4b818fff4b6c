"""The parity probe: the proof that an engine computes with the weights that the learner has.

One fixed prompt and response. The learner says its logprobs before it sends, and each engine must
give the same when it has loaded: not at the same time, because on a CPU they would share its cores
and wait for each other's threads, three times as long as one after the other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cluster.actors import LearnerPool, RolloutPool
from learner.rows import Response, Row
from wire.errors import DeadlineExceeded, GenerationError, WorkerDied
from wire.types import PolicyVersion


class Probe:
    """Asks both sides about a row's only response; ``tolerance``: see :func:`largest_difference`.

    Example:
        expected = await probe.expected(learner)
        ...  # new weights go to the engines
        outcomes = await probe.outcomes(rollouts, ["rollout-0"], expected)
    """

    def __init__(self, row: Row, tolerance: float) -> None:
        only = replace(row.responses[0], trains=False)
        self._row, self._tolerance = replace(row, responses=(only,)), tolerance

    async def expected(self, learner: LearnerPool) -> list[float]:
        """The learner's logprobs now, nats."""
        return (await learner.logprobs([self._row]))[0][0]

    async def outcomes(
        self,
        rollouts: RolloutPool,
        names: Sequence[str],
        expected: Sequence[float],
        adapter_of: PolicyVersion | None = None,
    ) -> list[float | str]:
        """Of each engine, all asked at the same time: its largest difference from the learner, or
        why it is not to serve. ``adapter_of``: with that version's adapter, which need not serve
        yet."""
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
            found = await rollouts.logprobs(name, row.video, row.prompt, response, adapter_of)
        except (GenerationError, DeadlineExceeded, WorkerDied) as error:
            return str(error)
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
