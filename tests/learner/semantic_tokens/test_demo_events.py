"""The tokenizer on what the demo's real vision tower makes of real clips."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.demo.batches import Preparer, through_codec
from cluster.demo.events import EVENTS, Triple, all_triples
from cluster.demo.render import render
from cluster.demo.scenes import FRAMES_PER_EVENT, POOLS, draw_scene
from cluster.demo.sight import see
from learner.semantic_tokens.figures import purity
from learner.semantic_tokens.fit import fit_tokenizer
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.segment_encoder import pool_segments
from video.semantic_tokens.segment_file import SegmentFile, SegmentWriter

pytestmark = pytest.mark.slow

WITH_TEXT = 32


def written(
    path: Path, model_dir: Path, split: str, count: int
) -> tuple[SegmentFile, list[Triple]]:
    """Segments of fresh clips with the looks of a split, and their events."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    preparer = Preparer(model, AutoProcessor.from_pretrained(model_dir))
    rng = np.random.default_rng(3)
    triples = [all_triples()[int(rng.integers(216))] for _ in range(count)]
    scenes = [draw_scene(POOLS[split], events, n) for n, events in enumerate(triples)]
    pixels = preparer.pixels([through_codec(render(scene)) for scene in scenes])
    t, h, w = preparer.grid
    with torch.no_grad():
        features = see(model.model.visual, pixels, preparer.grid)
    with SegmentWriter(path, tower="demo", places=4, width=features.shape[-1]) as writer:
        for n, clip in enumerate(features):
            writer.add(str(n), pool_segments(clip, (t, h // 2, w // 2), 2, 1).numpy())
    return SegmentFile.open(path), triples


def test_codes_name_the_events_of_clips_with_other_looks_though_few_clips_have_a_text(
    model_dir: Path, tmp_path: Path
):
    train, shown = written(tmp_path / "train", model_dir, "train", 300)
    mentions = [tuple({EVENTS.index(event) for event in events}) for events in shown]
    mentions[WITH_TEXT:] = [()] * (len(shown) - WITH_TEXT)
    vectors = torch.randn(len(EVENTS), 16, generator=torch.Generator().manual_seed(0))
    fitted = fit_tokenizer(train, mentions, EVENTS, vectors, SemanticTokensConfig(), seed=0)
    test, events = written(tmp_path / "test", model_dir, "test", 100)
    codes = [
        code
        for clip in test.read(range(len(test)))
        for code in fitted.tokenizer.codes(torch.from_numpy(clip))
    ]
    patches = FRAMES_PER_EVENT // 2
    truth = [event for triple in events for event in triple for _ in range(patches)]
    named = [fitted.tokenizer.names[code] for code in codes]
    assert purity(codes, truth) > 0.93
    assert np.mean([name == event for name, event in zip(named, truth, strict=True)]) > 0.9
    assert fitted.figures["codes_used_frac"] > 0.6
