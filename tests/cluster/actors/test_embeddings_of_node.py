"""What an engine's tower made of a clip is what a learner finds, and the other way round."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.actors.embeddings_of_node import EmbeddingsOfNode, open_store
from learner.model.embedding_cache import EmbeddingCache
from learner.model.embedding_store import EmbeddingStore
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import make_config
from tests.learner.builders import RandomClips, make_row
from tests.tiny_models import write_tiny_model
from video.positions import PositionRule

WIDTH = 128


def learner_of(folder: Path, rule: PositionRule, look: Any) -> EmbeddingCache:
    clips = RandomClips()
    return EmbeddingCache(
        EmbeddingStore(folder, 2**30),
        "tower-1",
        rule,
        look=look,
        blank=Pixels(torch.zeros(1, 1), torch.ones(1, 3, dtype=torch.int64)),
        clip_of=lambda row: clips.load(row.prompt.clip_key, row.video, row.prompt.fingerprint),
        max_over_ranks=lambda number: number,
    )


def never(pixels: Pixels) -> ClipFeatures:
    raise AssertionError("the tower ran a second time")


@pytest.fixture
def case(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, PositionRule, Row, Any]:
    """Folder, rule, a row and its clip, of a family."""
    model_type: str = request.param
    rule = PositionRule.load(write_tiny_model(tmp_path / "model", model_type))
    row = make_row(0, (3, 5), model_type=model_type)
    clip = RandomClips().load(row.prompt.clip_key, row.video, row.prompt.fingerprint)
    return tmp_path / "cache" / "embeddings", rule, row, clip


def num_tokens(rule: PositionRule, row: Row) -> int:
    return int(rule.is_video(row.prompt.token_ids).sum())


@pytest.mark.parametrize(
    ("case", "num_layers"), [("qwen2_5_vl", 0), ("qwen3_vl", 2)], indirect=["case"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learner_finds_what_an_engine_made(case: Any, num_layers: int, dtype: torch.dtype):
    folder, rule, row, clip = case
    engine = EmbeddingsOfNode(EmbeddingStore(folder, 2**30), "tower-1", WIDTH)
    assert engine.find(row.prompt) is None
    made = torch.randn(num_tokens(rule, row), (1 + num_layers) * WIDTH).to(dtype)
    engine.keep(row.prompt, clip, made)
    cache = learner_of(folder, rule, never)
    cache.fill([row])
    features = cache.seen_of(row)
    assert len(features.deepstack) == num_layers
    assert torch.equal(torch.cat((features.embeds, *features.deepstack), dim=1), made)
    assert cache.clip_of(row).grid_thw == clip.grid_thw
    assert cache.take_counts() == {"wanted": 1.0, "looked_at": 0.0}


@pytest.mark.parametrize("case", ["qwen3_vl"], indirect=True)
def test_an_engine_finds_what_a_learner_made_under_the_same_tower_alone(case: Any):
    folder, rule, row, _ = case
    parts: Sequence[torch.Tensor] = [torch.randn(num_tokens(rule, row), WIDTH) for _ in range(3)]
    cache = learner_of(folder, rule, lambda pixels: ClipFeatures(parts[0], tuple(parts[1:])))
    cache.fill([row])
    store = EmbeddingStore(folder, 2**30)
    embeddings = EmbeddingsOfNode(store, "tower-1", WIDTH).find(row.prompt)
    assert embeddings is not None
    assert torch.equal(embeddings, torch.cat(tuple(parts), dim=1))
    assert EmbeddingsOfNode(store, "tower-2", WIDTH).find(row.prompt) is None


@pytest.mark.parametrize("case", ["qwen2_5_vl"], indirect=True)
def test_the_store_of_a_node_lies_beside_its_clips_for_both_sides(case: Any):
    folder, rule, row, clip = case
    config = make_config()
    engine = EmbeddingsOfNode(open_store(config, folder.parent, 0), "tower-1", WIDTH)
    engine.keep(row.prompt, clip, torch.ones(num_tokens(rule, row), WIDTH))
    learner = EmbeddingsOfNode(open_store(config, folder.parent), "tower-1", WIDTH)
    assert learner.find(row.prompt) is not None
