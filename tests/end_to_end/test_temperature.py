"""At a sampling temperature, engine and learner agree on the distribution that wrote a trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cluster.demo
from learner.shared_prefix.rows import Response, Row
from rollout.engine import Sampling
from tests.real_workers import make_config, open_workers
from wire.types import Completion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

TEMPERATURE = 0.7


async def test_logprobs_of_a_trace_to_train_on_are_at_the_sampling_temperature(
    ray_session: None, place: Any, tmp_path: Path
) -> None:
    # a trained model: an untrained one gives 1% to the video tokens that an engine may not write,
    # which its distribution leaves out at a temperature, and the learner's has
    config = make_config(
        Path(cluster.demo.__file__).parent / "base",
        place.root.parent / "data" / "manifest.jsonl",
        [label.name for label in place.labels.labels],
        rollout={"temperature": TEMPERATURE, "num_cpus": 0.5},
        learner={"num_cpus": 0.25},
    )
    async with (
        open_workers(config, tmp_path / "cache") as workers,
        workers.learner() as (learner, _),
    ):

        async def gap(sample: Any, at: float, sampling: Sampling) -> float:
            """Largest difference of engine and learner, whose logprobs are at a temperature."""
            rollout = await workers.rollouts.answer(sample, sampling)
            completions: tuple[Completion, ...] = rollout.completions
            assert {c.logprobs_temperature for c in completions} == {
                TEMPERATURE if sampling.for_training else 1.0
            }
            responses = tuple(Response(token_ids=c.token_ids, temperature=at) for c in completions)
            row = Row(prompt=rollout.prompt, video=sample.video, responses=responses)
            (answers,) = await learner.logprobs([row])
            pairs = zip(answers, completions, strict=True)
            return max(float(np.abs(np.subtract(a, c.logprobs)).max()) for a, c in pairs)

        sample = workers.samples[0]
        training = Sampling(n=4, temperature=TEMPERATURE, max_tokens=32, seed=1, for_training=True)
        assert await gap(sample, TEMPERATURE, training) < 1e-4
        assert await gap(sample, 1.0, training) > 1e-2
        for temperature in (TEMPERATURE, 0.01, 1.0):
            measured = Sampling(n=2, temperature=temperature, max_tokens=32, seed=2)
            assert await gap(sample, 1.0, measured) < 1e-3  # 1e-4 is the noise of this model
