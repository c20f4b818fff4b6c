import json
from pathlib import Path

import numpy as np
import pytest

from video.positions import PositionRule
from video.semantic_tokens.embedding_narrator import CodeEmbeddings, SoftEmbeddings, VideoTokens
from video.semantic_tokens.narrative import Run, runs
from video.semantic_tokens.segment_file import SegmentFile, SegmentWriter
from wire.errors import ClipError, ConfigError

TOKENS = VideoTokens(start=3, video=7, end=4, merge_size=2)
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def write_config(folder: Path, **values: object) -> Path:
    usual = {
        "model_type": "qwen2_5_vl",
        "vision_start_token_id": 3,
        "video_token_id": 7,
        "vision_end_token_id": 4,
        "vision_config": {"spatial_merge_size": 2, "tokens_per_second": 2},
    }
    (folder / "config.json").write_text(json.dumps(usual | values))
    return folder


def test_a_segment_is_a_video_token_with_the_embedding_of_its_code():
    shown = CodeEmbeddings(TOKENS, TABLE).show((Run(3, 2), Run(0, 1)), "clip")
    assert shown.placeholder_ids == (3, 7, 7, 7, 4)
    assert shown.grid_thw == (3, 2, 2)
    assert shown.embeddings is not None
    assert np.array_equal(shown.embeddings, TABLE[[3, 3, 0]])


def test_positions_are_those_of_a_clip_with_one_patch_at_a_time(tmp_path: Path):
    rule = PositionRule.load(write_config(tmp_path))
    shown = CodeEmbeddings(VideoTokens.load(tmp_path), TABLE).show((Run(1, 3),), "clip")
    ids = (9, *shown.placeholder_ids, 9)
    positions = rule.of_prompt(ids, shown.grid_thw, shown.seconds_per_grid)
    assert positions[0].tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert positions[1].tolist() == [0, 1, 2, 2, 2, 7, 8]


def test_a_narrative_without_actions_has_no_video_token():
    shown = CodeEmbeddings(TOKENS, TABLE).show((), "clip")
    assert (shown.placeholder_ids, shown.embeddings) == ((3, 4), None)


def test_unquantised_segments_are_shown_as_they_are_and_have_no_views(tmp_path: Path):
    vectors = {"one": TABLE[:3, None], "two": TABLE[1:, None] + 0.5}
    with SegmentWriter(tmp_path / "soft", tower="t", places=1, width=3) as writer:
        for clip, of in vectors.items():
            writer.add(clip, of)
    codes = {"one": (1, 1, 2), "two": (2, 2, 2)}
    narrator = SoftEmbeddings(TOKENS, SegmentFile.open(tmp_path / "soft"), codes.__getitem__)
    shown = narrator.show(runs(codes["two"]), "two")
    assert shown.embeddings is not None
    assert np.array_equal(shown.embeddings, vectors["two"][:, 0])
    assert narrator.show((), "two").embeddings is None
    with pytest.raises(ClipError, match="quantise = false"):
        narrator.show(runs(codes["one"][::-1]), "one")


def test_a_model_that_writes_times_or_names_no_tokens_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match='use render = "text"'):
        VideoTokens.load(write_config(tmp_path, model_type="qwen3_vl"))
    with pytest.raises(ConfigError, match="no vision_end_token_id"):
        VideoTokens.load(write_config(tmp_path, vision_end_token_id=None))
