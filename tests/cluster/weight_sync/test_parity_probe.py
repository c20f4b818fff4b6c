"""The probe in bfloat16: whom it asks, and what it makes of the answers."""

from collections.abc import Sequence

import numpy as np
import pytest

from cluster.weight_sync.parity_probe import (
    ParityProbe,
    num_probe_tokens,
    probe_row,
    probe_text,
)
from learner.shared_prefix.rows import Response, Row
from wire.labels import Label, LabelSet
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Prompt

NOISE, TOKENS = 0.01, tuple(range(40, 168))
PROBE = probe_row(
    Row(
        prompt=Prompt(token_ids=TokenIds((1, 2)), clip_key="k", fingerprint="f"),
        video="a.mp4",
        responses=(Response(token_ids=TokenIds((5,))),),
    ),
    TOKENS,
)


class Policy:
    """Logprobs of the probe under a version, in bfloat16: what is beside its tokens adds noise."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.truth = self.random.normal(-6, 2, len(TOKENS))

    def move(self, size: float) -> None:
        self.truth = self.truth + self.random.normal(0, size, len(TOKENS))

    def answer(self) -> list[float]:
        return (self.truth + self.random.normal(0, NOISE, len(TOKENS))).tolist()


class Learner:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asked: list[list[int]] = []

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        self.asked.append([len(row.responses) for row in rows])
        beside = [[-1.0] * (len(row.responses[-1].token_ids)) for row in rows]
        return [[self.policy.answer(), more] for more in beside]


class Engines:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asked: list[int] = []
        self.stays: list[float] | None = None

    async def logprobs(
        self,
        name: str,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None,
    ) -> list[float]:
        self.asked.append(len(response))
        answer = self.stays or self.policy.answer()
        return [*answer, *[-1.0] * (len(response) - len(answer))]


class Sides:
    def __init__(self) -> None:
        self.policy = Policy()
        self.learner, self.engines = Learner(self.policy), Engines(self.policy)
        self.probe = ParityProbe(PROBE, tolerance=0.5, noise_factor=8.0)

    async def update(self) -> float | str:
        expected = await self.probe.expected(self.learner)  # type: ignore[arg-type]
        (outcome,) = await self.probe.outcomes(self.engines, ["a"], expected)  # type: ignore[arg-type]
        return outcome


async def test_each_side_is_asked_twice_at_the_start_and_the_learner_now_and_then():
    sides = Sides()
    for _ in range(17):
        assert isinstance(await sides.update(), float)
        sides.policy.move(0.02)
    assert sides.learner.asked == [[1, 2], *[[1]] * 15, [1, 2]]
    assert sides.engines.asked == [128, 160, *[128] * 16]
    assert sides.probe.figures["parity/noise"] == pytest.approx(2**0.5 * NOISE, rel=0.3)


async def test_an_engine_that_computes_something_else_must_not_serve_from_the_first_update_on():
    sides = Sides()
    sides.engines.policy = Policy()
    sides.engines.policy.truth = sides.policy.truth + 0.2
    assert "nats (root mean square)" in str(await sides.update())


async def test_an_engine_that_keeps_older_weights_must_not_serve():
    sides = Sides()
    await sides.update()
    sides.engines.stays = sides.policy.answer()
    sides.policy.move(0.08)
    outcome = str(await sides.update())
    assert "of about 1 updates ago" in outcome
    sides.engines.stays = None
    assert isinstance(await sides.update(), float)


async def test_an_engine_that_an_update_overtakes_is_held_against_the_weights_that_it_loaded():
    sides = Sides()
    await sides.update()
    sides.policy.move(0.08)
    loaded, before = sides.policy.answer(), await sides.probe.expected(sides.learner)  # type: ignore[arg-type]
    sides.policy.move(0.08)
    newest = await sides.probe.expected(sides.learner)  # type: ignore[arg-type]
    sides.engines.stays = loaded
    (outcome,) = await sides.probe.outcomes(sides.engines, ["a"], before)  # type: ignore[arg-type]
    assert isinstance(outcome, float)
    (outcome,) = await sides.probe.outcomes(sides.engines, ["a"], newest)  # type: ignore[arg-type]
    assert "of about 1 updates ago" in str(outcome)


async def test_gross_differences_are_named_as_in_float32():
    sides = Sides()
    await sides.update()
    sides.engines.stays = [-40.0] * len(TOKENS)
    assert "does not hold the weights that were sent" in str(await sides.update())


def test_the_probe_and_what_is_beside_it_fit_a_short_response():
    for longest in (8, 24, 100, 4096):
        num = num_probe_tokens(longest)
        assert num + max(1, num // 4) <= longest
        assert num == 128 or num > 0.6 * longest


def test_the_long_text_has_many_words_in_an_unlikely_order():
    labels = LabelSet(labels=(Label(name="walk", definition="goes on foot"), Label(name="fall")))
    words = probe_text(labels, long=True).split()
    assert len(words) == 256
    assert set(words) == {"walk", "goes", "on", "foot", "fall"}
    assert probe_text(labels, long=False) == "<think>fall walk</think><answer>fall</answer>"
