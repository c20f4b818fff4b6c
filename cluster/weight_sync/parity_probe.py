"""Parity probe: proves that an engine computes with the same weights as the learner.

One fixed prompt and response. The learner computes its logprobs before it sends the weights, and
each engine must give the same ones after loading. Not at the same time: on a CPU learner and engine
would share the cores and wait for each other's threads, three times as long as one after the other.

In float32 they agree to 1e-4. In bfloat16 the gap is held against the noise of both sides, and
against what the learner changed (cluster/weight_sync/parity_statistics.py).
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.weight_sync.parity_statistics import ProbeStatistics
from learner.shared_prefix.rows import Response, Row
from wire.errors import DeadlineExceeded, GenerationError, WorkerDied
from wire.labels import LabelSet
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion

_MOST_TOKENS = 128  # of the probe's response
_BESIDE = 4  # noise is measured with a quarter as many tokens beside the probe's
_MEASURE_EVERY = 16  # updates: a trained policy rounds more where its logprobs are larger


class ParityProbe:
    """Compares logprobs of a row's only response on both sides; ``tolerance``: see
    :func:`largest_difference`; ``noise_factor``: see ProbeStatistics, None in float32.

    Example:
        expected = await probe.expected(learner)
        ...  # new weights go to the engines
        outcomes = await probe.outcomes(rollouts, ["rollout-0"], expected)
    """

    def __init__(self, row: Row, tolerance: float, noise_factor: float | None = None) -> None:
        only = replace(row.responses[0], trains=False)
        self._row, self._tolerance = replace(row, responses=(only,)), tolerance
        ids = tuple(only.token_ids)
        self._beside = TokenIds(ids[: max(1, len(ids) // _BESIDE)][::-1])
        self._statistics = ProbeStatistics(noise_factor) if noise_factor else None
        self._num_updates = 0
        self._measured = set[str]()

    @property
    def figures(self) -> dict[str, float]:
        """Metrics of the noise; empty in float32."""
        return {"parity/noise": self._statistics.noise} if self._statistics else {}

    async def expected(self, learner: LearnerGroup) -> Sequence[float]:
        """The learner's logprobs now, nats."""
        rows = [self._row]
        if self._statistics and self._num_updates % _MEASURE_EVERY == 0:
            more = replace(self._row.responses[0], token_ids=self._beside)
            rows += [replace(self._row, responses=(*self._row.responses, more))]
        answers = [row[0] for row in await learner.logprobs(rows)]
        self._num_updates += 1
        if self._statistics:
            for again in answers[1:]:
                self._statistics.measure(answers[0], again)
            self._statistics.learner_answers(answers[0])
        return answers[0]

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

        async def ask(response: Sequence[int]) -> list[float]:
            return await rollouts.logprobs(name, row.video, row.prompt, response, adapter_of)

        try:
            logprobs = await ask(response)
            if self._statistics and name not in self._measured:
                longer = await ask((*response, *self._beside))
                self._statistics.measure(logprobs, longer[: len(response)])
                self._measured.add(name)
        except (GenerationError, DeadlineExceeded, WorkerDied) as error:
            return str(error)
        worst = largest_difference(logprobs, expected)
        if not worst <= self._tolerance:  # so for NaN
            return (
                f"logprobs differ by {worst:.3g} from the learner's, {self._tolerance:.2g} is "
                "allowed: the engine does not hold the weights that were sent"
            )
        statistics = self._statistics
        fault = statistics.fault(name, logprobs, expected) if statistics else None
        return fault or worst


def largest_difference(logprobs: Sequence[float], expected: Sequence[float]) -> float:
    """Largest |logprob - expected| / max(1, |expected|): float32 rounds a logprob of -15 fifteen
    times as much."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(logprobs, expected, strict=True))


def probe_row(row: Row, token_ids: tuple[int, ...]) -> Row:
    """The probe's row: a fixed response to the prompt of ``row``."""
    return replace(row, responses=(Response(token_ids=TokenIds(token_ids)),))


def probe_text(labels: LabelSet, *, long: bool) -> str:
    """Text of the probe's response: unlikely on purpose, because where a token is nearly certain,
    wrong weights hardly show. ``long``: with many words of the labels' definitions."""
    names = labels.names
    if not long:
        return f"<think>{' '.join(names)}</think><answer>{names[0]}</answer>"
    words = [word for label in labels.labels for word in f"{label.name} {label.definition}".split()]
    return " ".join(random.Random(0).choices(words, k=2 * _MOST_TOKENS))


def num_probe_tokens(max_response_length: int) -> int:
    """Tokens of the probe's response in bfloat16: as many as show a small change, and leave room
    for those beside it."""
    return max(1, min(_MOST_TOKENS, max_response_length * _BESIDE // (_BESIDE + 1)))
