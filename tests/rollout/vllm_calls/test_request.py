"""What a group sends, by vLLM's own encoder, decoder and receiver's cache."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollout.config import RolloutConfig
from rollout.vllm_calls.request import receiver_cache_gb, tensor_of, vllm_requests
from tests.tiny_models import write_tiny_model
from video.positions import PositionRule
from video.processor import ProcessedClip

GRID = (4, 8, 8)
PIXELS = np.random.default_rng(0).normal(size=(4 * 8 * 8, 3 * 2 * 14 * 14)).astype(np.float32)


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> PositionRule:
    return PositionRule.load(write_tiny_model(tmp_path_factory.mktemp("model"), "qwen2_5_vl"))


def features_of(
    rule: PositionRule, dtype: str, count: int, embeddings: torch.Tensor | None = None
) -> list[list[Any]]:
    """vLLM's multimodal features of a group's requests, as its input processor makes them."""
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    tokens = [5, *[rule.video_token_id] * (4 * 4 * 4), 6]
    clip = ProcessedClip(
        pixel_values=PIXELS,
        grid_thw=GRID,
        seconds_per_grid=0.5,
        placeholder_ids=(),
        fingerprint="f" * 64,
        clip_key="c",
    )
    config = RolloutConfig(dtype=dtype, max_prompt_length=200)
    continued = [()] * count
    requests = vllm_requests(tokens, clip, rule, config, continued=continued, embeddings=embeddings)
    return [
        [
            MultiModalFeatureSpec(
                data=request["mm_kwargs"]["video"][0],
                modality="video",
                identifier=request["mm_hashes"]["video"][0],
                mm_position=request["mm_placeholders"]["video"][0],
                mm_hash=request["mm_hashes"]["video"][0],
            )
        ]
        for request in requests
    ]


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_a_group_of_eight_sends_its_clip_once_and_every_request_has_it(
    rule: PositionRule, dtype: str, num_bytes: int
):
    from vllm.multimodal.cache.lru import LruKeyReplicatedReceiverCache
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    groups, encoder = features_of(rule, dtype, 8), MsgpackEncoder()
    encoded = [encoder.encode(features) for features in groups]
    sent = sum(memoryview(part).nbytes for parts in encoded for part in parts)
    assert PIXELS.size * num_bytes < sent < 1.1 * PIXELS.size * num_bytes

    gb = receiver_cache_gb(RolloutConfig(dtype=dtype, max_prompt_length=200))
    mm_config = SimpleNamespace(mm_processor_cache_gb=gb)
    model: Any = SimpleNamespace(get_multimodal_config=lambda: mm_config)
    cache = LruKeyReplicatedReceiverCache(model)
    decoder = MsgpackDecoder(list[MultiModalFeatureSpec])
    for parts in encoded:
        (feature,) = cache.get_and_update_features(decoder.decode(parts))
        data = feature.data.get_data()
        expected = torch.from_numpy(PIXELS).to(getattr(torch, dtype))
        assert torch.equal(data["pixel_values_videos"], expected)
        assert data["video_grid_thw"].tolist() == list(GRID)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_take_the_place_of_pixels_and_come_back_as_an_engine_hands_them_out(
    rule: PositionRule, dtype: torch.dtype
):
    made = torch.randn(4 * 4 * 4, 24).to(dtype)
    flat = made.flatten().view(torch.uint8).numpy().tobytes()
    values = str(dtype).removeprefix("torch."), list(made.shape), flat
    embeddings = tensor_of(values)
    assert torch.equal(embeddings, made)
    first, second = features_of(rule, "float32", 2, embeddings)
    data = first[0].data.get_data()
    assert set(data) == {"video_embeds", "video_grid_thw", "second_per_grid_ts"}
    assert torch.equal(data["video_embeds"], made)
    assert second[0].data is None


def test_the_core_has_room_for_the_largest_clip_of_every_family():
    config = RolloutConfig(dtype="bfloat16", max_prompt_length=26_000)
    for patch in (14, 16):  # Qwen2-VL and Qwen2.5-VL; Qwen3-VL
        largest = 26_000 * 4 * (3 * 2 * patch * patch) * 2
        assert receiver_cache_gb(config) * 2**30 > 1.05 * largest


def narrated(embeddings: np.ndarray[Any, Any] | None) -> ProcessedClip:
    return ProcessedClip(
        pixel_values=np.zeros((0, 1), np.float32),
        grid_thw=(0, 0, 0) if embeddings is None else (len(embeddings), 2, 2),
        seconds_per_grid=1.0,
        placeholder_ids=(),
        fingerprint="f" * 64,
        clip_key="c",
        semantic_tokenizer="3f9c0a7b51de",
        embeddings=embeddings,
    )


def test_a_narrative_in_text_is_a_request_of_text_alone(rule: PositionRule):
    requests = vllm_requests(
        [5, 9, 6], narrated(None), rule, RolloutConfig(), continued=[(), (4,)], salt="a"
    )
    assert requests == [
        {"type": "token", "prompt_token_ids": [5, 9, 6], "cache_salt": "a"},
        {"type": "token", "prompt_token_ids": [5, 9, 6, 4], "cache_salt": "a"},
    ]


@pytest.mark.parametrize(("model_type", "num_inner"), [("qwen2_5_vl", 0), ("qwen3_vl", 1)])
def test_embeddings_of_a_narrative_go_to_the_engine_in_place_of_pixels(
    tmp_path: Path, model_type: str, num_inner: int
):
    rule = PositionRule.load(write_tiny_model(tmp_path, model_type))
    assert (rule.num_deepstack > 0) == bool(num_inner)
    rows = np.arange(24, dtype=np.float32).reshape(3, 8)
    tokens = [5, 3, *[rule.video_token_id] * 3, 6]
    (request,) = vllm_requests(tokens, narrated(rows), rule, RolloutConfig(dtype="float32"))
    item = request["mm_kwargs"]["video"][0].get_data()
    assert item["video_embeds"].shape == (3, 8 * (1 + rule.num_deepstack))
    assert torch.equal(item["video_embeds"][:, :8], torch.from_numpy(rows))
    assert not item["video_embeds"][:, 8:].any()
    assert item["video_grid_thw"].tolist() == [3, 2, 2]
    assert request["mm_hashes"] == {"video": ["f" * 64]}
