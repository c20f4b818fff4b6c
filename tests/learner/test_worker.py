"""The worker's choice of layout, with a plain engine: a policy without DeepSpeed, one rank."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from learner.config import GrpoLossConfig, LearnerConfig
from learner.engine import DeepSpeedEngine
from learner.micro_batches import Batches
from learner.model.embedding_cache import EmbeddingCache
from learner.model.embedding_store import EmbeddingStore
from learner.model.policy import Policy
from learner.ranks.clips_ahead import ClipsAhead
from learner.shared_prefix.batch import TrainBatch
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.shared_prefix.layout import Span
from learner.shared_prefix.rows import StepCounts, without_tokens
from learner.worker import LearnerWorker
from tests.learner.builders import RandomClips, make_clip, make_row
from video.cache import ClipStore
from video.positions import PositionRule

ROWS = [make_row(0, (3, 5, 2)), make_row(1, (2,)), make_row(2, (4, 4))]
COUNTS = StepCounts.of(ROWS)


class Clips(RandomClips, ClipStore):
    """Of the type that the worker asks for."""


class PlainEngine(DeepSpeedEngine):
    """A step keeps the gradient instead of updating. Of DeepSpeed's engine only the type."""

    def __init__(self, model_dir: Path) -> None:
        self._policy = Policy.load(model_dir, "float32")
        self.tokens: list[int] = []
        """Of every batch that trained."""
        self.gradient = torch.empty(0)

    @property
    def policy(self) -> Policy:
        return self._policy

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to_device(self, batch: TrainBatch) -> TrainBatch:
        return batch

    def forward(self, batch: TrainBatch) -> Any:
        self.tokens.append(batch.layout.num_tokens)
        return self.policy(batch)

    @torch.no_grad()
    def score(self, batch: TrainBatch) -> Any:
        return self.policy(batch)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        found = [p.grad.flatten() for p in self.policy.parameters() if p.grad is not None]
        self.gradient = torch.cat(found)
        self.policy.zero_grad()
        return float(self.gradient.norm())

    def learning_rates(self, base: float) -> dict[Any, float]:
        return {}


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def start(model_dir: Path, **config: Any) -> tuple[LearnerWorker, PlainEngine]:
    chosen = LearnerConfig(**{"dtype": "float32", **config})
    worker, engine = LearnerWorker(chosen, GrpoLossConfig(), Clips()), PlainEngine(model_dir)
    worker._engine, worker._rule = engine, PositionRule.load(model_dir)
    worker._batches = Batches(chosen, engine, worker._rule, Clips(), None)
    return worker, engine


def test_every_layout_and_split_has_the_same_gradient_and_logprobs(model_dir: Path):
    shared, engine = start(model_dir)
    figures = shared.train_step(ROWS, COUNTS, "grpo", 1.0)
    assert engine.tokens == [sum(row.num_tokens for row in ROWS)]
    assert figures["shared_prefix/used"] == 1
    assert figures["shared_prefix/self_check"] < 1e-6
    for config in ({"max_tokens_per_batch": 24}, {"shared_prefix": False}):
        other, apart = start(model_dir, **config)
        again = other.train_step(ROWS, COUNTS, "grpo", 1.0)
        assert sum(apart.tokens) > sum(engine.tokens)
        assert (apart.gradient - engine.gradient).norm() < 1e-5 * engine.gradient.norm()
        assert again["policy_loss"] == pytest.approx(figures["policy_loss"], rel=1e-4)
        assert again["shared_prefix/used"] == config.get("shared_prefix", True)
        for row, found, expected in zip(
            ROWS, other.logprobs(ROWS), shared.logprobs(ROWS), strict=True
        ):
            assert [len(part) for part in found] == [len(r.token_ids) for r in row.responses]
            for one, two in zip(found, expected, strict=True):
                assert one == pytest.approx(two, abs=1e-5)


def test_a_layout_found_wrong_is_left_with_a_warning(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    right, expected = start(model_dir)
    right.train_step(ROWS, COUNTS, "grpo", 1.0)
    every = Span.calls.fget
    blind = property(lambda span: [call for call in every(span) if call.causal])
    monkeypatch.setattr(Span, "calls", blind)  # responses no longer see their prompt
    worker, engine = start(model_dir)
    figures = worker.train_step(ROWS, COUNTS, "grpo", 1.0)
    assert figures["shared_prefix/used"] == 0
    assert figures["shared_prefix/self_check"] > 1e-2
    assert "shared prefix is not exact here" in caplog.text
    assert (engine.gradient - expected.gradient).norm() < 1e-5 * expected.gradient.norm()
    caplog.clear()
    assert worker.train_step(ROWS, COUNTS, "grpo", 1.0)["shared_prefix/used"] == 0
    assert not caplog.text, "it is said once"


class ClipsOnDisk(Clips):
    """Clips of which some are not ready; notes those that are made ready ahead."""

    def __init__(self, missing: set[str]) -> None:
        super().__init__()
        self.missing, self.prepared = missing, list[str]()
        self.done = threading.Semaphore(0)

    def has(self, clip_key: str) -> bool:
        return clip_key not in self.missing

    def prepare(self, address: str) -> None:
        self.prepared.append(address)
        self.done.release()


def test_clips_that_are_not_ready_are_made_ready_while_others_train(model_dir: Path):
    worker, engine = start(model_dir)
    worker.prepare(ROWS)
    clips = ClipsOnDisk({ROWS[-1].prompt.clip_key})
    ahead = ClipsAhead(clips, 1)
    worker._batches = Batches(worker._config, engine, worker._rule, clips, None, ahead)
    worker.prepare([without_tokens(row) for row in ROWS])
    assert clips.done.acquire(timeout=10)
    assert clips.prepared == [ROWS[-1].video]
    figures = worker.train_step(ROWS, COUNTS, "grpo", 1.0)
    assert figures["timing_s/wait_clips"] > 0, "the last one was never ready"
    assert clips.done.acquire(timeout=10)
    clips.missing = set()
    assert worker.train_step(ROWS, COUNTS, "grpo", 1.0)["timing_s/wait_clips"] == 0


def test_segments_are_the_towers_features_pooled_and_every_clip_is_looked_at_once(model_dir: Path):
    worker, engine = start(model_dir, max_tokens_per_batch=40)
    rows = [replace(make_row(i, (1,)), responses=()) for i in (0, 1, 0, 2)]
    looks: list[int] = []

    @torch.no_grad()
    def look(pixels: Pixels) -> ClipFeatures:
        looks.append(len(pixels.grid_thw))
        return engine.policy.look(pixels.values, pixels.grid_thw)

    worker._batches._seen = EmbeddingCache(
        EmbeddingStore(None, 0, recent_bytes=2**20),
        "tower",
        worker._rule,
        look=look,
        blank=engine.policy.blank_clip((1, 2, 2)),
        clip_of=lambda row: make_clip(int(row.prompt.clip_key)),
        max_over_ranks=lambda number: number,
    )
    segments = worker.segments(rows, 1, 2)
    assert sum(looks) == 3
    assert [one.shape for one in segments] == [(1, 1, engine.policy.vlm.lm_head.in_features)] * 4
    for row, one in zip(rows, segments, strict=True):
        clip = make_clip(int(row.prompt.clip_key))
        pixels, grid = torch.from_numpy(clip.pixel_values), torch.tensor([clip.grid_thw])
        with torch.no_grad():
            features = engine.policy.look(pixels, grid).embeds
        np.testing.assert_allclose(one[0, 0], features.mean(0).numpy(), rtol=1e-4, atol=1e-6)
