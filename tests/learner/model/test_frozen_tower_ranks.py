"""Embedding cache and preflight under DeepSpeed: the same steps to the bit, and no rank waits."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.config import OptimConfig
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.rows import StepCounts
from tests.learner.builders import make_row
from tests.learner.test_zero import Ranks
from tests.tiny_models import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ADAMW = OptimConfig(learning_rate=1e-3)
LARGEST = LargestBatch(
    prompt_length=30, response_length=6, group_size=3, num_groups=4, num_frames=4, max_tokens=100
)


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


def rows_of(model_type: str) -> list[Any]:
    sizes = [(3, 5), (2,), (7, 1), (4,), (6,), (2, 2)]
    return [make_row(n, lengths, model_type=model_type) for n, lengths in enumerate(sizes)]


def train(ranks: Ranks, hands: list[list[Any]], num_steps: int) -> tuple[Any, list[Any]]:
    """Weights and metrics after steps that all train the same hands."""
    counts = StepCounts.of([row for hand in hands for row in hand])
    found = ranks.each("train", [(hand,) for hand in hands], counts, "grpo", [1e-3] * num_steps)
    return ranks.all("weights")[0], found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("stage", "model_type"), [(3, "qwen3_vl"), (0, "qwen2_5_vl")])
def test_steps_with_the_cache_are_those_without_to_the_bit(
    pair: Ranks, tmp_path: Path, stage: int, model_type: str
):
    """Ranks have five rows and one, and different clips in the cache."""
    model_dir = write_tiny_model(tmp_path / "model", model_type)
    rows = rows_of(model_type)
    hands = [rows[:5], rows[5:]]
    config = {"zero_stage": stage, "max_tokens_per_batch": 40}
    pair.start(model_dir, ADAMW, **config)
    expected, _ = train(pair, hands, 3)

    folder = tmp_path / "embeddings"
    pair.start(model_dir, ADAMW, embeddings=folder, **config)
    pair.each("call", [("logprobs", [rows[5]]), ("logprobs", [rows[5], rows[1]])])
    pair.start(model_dir, ADAMW, embeddings=folder, **config)
    found, metrics = train(pair, hands, 3)
    assert same(found, expected)
    rates = [step["cache/embedding_hit_rate"] for step in metrics[0]]
    assert rates == [pytest.approx(2 / 6), 1.0, 1.0]  # one clip of each rank was known
    assert metrics[1] == metrics[0]

    pair.start(model_dir, ADAMW, embeddings=folder, **config)  # another run
    again, metrics = train(pair, hands, 3)
    assert same(again, expected)
    assert [step["cache/embedding_hit_rate"] for step in metrics[0]] == [1.0] * 3

    pair.start(model_dir, ADAMW, embeddings=tmp_path / "cold", **config)
    segments = pair.each("call", [("segments", hand, 1, 1) for hand in hands])
    assert [[one.shape[:2] for one in part] for part in segments] == [[(2, 1)] * 5, [(2, 1)]]
    pair.start(model_dir, ADAMW, embeddings=folder, **config)
    known = pair.each("call", [("segments", hand, 1, 1) for hand in hands])
    for one, other in zip([*segments[0], *segments[1]], [*known[0], *known[1]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    logprobs = pair.each("call", [("logprobs", hand) for hand in hands])
    pair.start(model_dir, ADAMW, embeddings=folder, freeze_vision_tower=False, **config)
    _, metrics = train(pair, hands, 1)
    assert "cache/embedding_hit_rate" not in metrics[0][0]
    assert logprobs[0][0]


@pytest.mark.parametrize(
    ("stage", "embeddings"), [(3, True), (2, True), (1, False), (0, True), (3, False)]
)
def test_the_preflight_leaves_weights_and_optimiser_as_they_were(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int, embeddings: bool
):
    """Three AdamW steps after it are three steps without it, to the bit."""
    rows = rows_of("qwen2_5_vl")
    hands = [rows[:5], rows[5:]]
    folder = tmp_path / "embeddings" if embeddings else None
    config = {"zero_stage": stage, "max_tokens_per_batch": 80, "embeddings": folder}
    pair.start(model_dir, ADAMW, **config)
    expected, its_metrics = train(pair, hands, 3)

    pair.start(model_dir, ADAMW, **config)
    before = pair.all("weights")[0]
    peaks = pair.all("call", "preflight", LARGEST, embeddings)
    assert min(peaks) > 0.05  # GB: of a process that has loaded torch
    assert same(pair.all("weights")[0], before)
    found, metrics = train(pair, hands, 3)
    assert same(found, expected)
    for one, other in zip(metrics[0], its_metrics[0], strict=True):
        one.pop("cache/embedding_hit_rate", None)
        other.pop("cache/embedding_hit_rate", None)
        assert one == other


def test_the_preflight_has_a_reference_model_beside_it_where_the_stage_will(
    pair: Ranks, tmp_path: Path
):
    """It is there to be asked when the model's files are gone."""
    model_dir = write_tiny_model(tmp_path / "model", "qwen2_5_vl")
    rows = rows_of("qwen2_5_vl")
    hands = [("logprobs", rows[:5]), ("logprobs", rows[5:])]
    pair.start(model_dir, ADAMW, zero_stage=3)
    pair.all("call", "preflight", LARGEST, True)
    expected = pair.each("call", hands)
    shutil.rmtree(model_dir)
    train(pair, [rows[:5], rows[5:]], 1)
    found = pair.each("call", [("ref_logprobs", hand) for _, hand in hands])
    for part, own in zip(found, expected, strict=True):
        for values, same_values in zip(_flat(part), _flat(own), strict=True):
            assert values == pytest.approx(same_values, abs=1e-5)


def _flat(scored: list[list[list[float]]]) -> list[list[float]]:
    return [values for row in scored for values in row]
