import json
import math
import struct
from pathlib import Path

import pytest

from cluster.plan.model_size import (
    KNOWN_MODELS,
    ModelShape,
    engine_memory,
    rank_memory,
    read_max_pixels,
    read_shape,
    video_tokens,
)
from learner.config import LearnerConfig, OptimConfig
from rollout.config import RolloutConfig
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.config import VideoConfig
from wire.errors import ConfigError

DEMO = Path(__file__).parents[3] / "cluster/demo/base"
SEVEN = KNOWN_MODELS["Qwen2.5-VL-7B-Instruct"]
TEXT, ALL = 7_615_616_512, 8_292_166_656


def demo_shape() -> ModelShape:
    shape = read_shape(DEMO)
    assert shape is not None
    return shape


def stored_parameters(file: Path, part: str = "") -> int:
    """From the header of a safetensors file."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if part in name)


def test_parameters_are_those_in_the_weights_of_the_demo_model():
    weights = DEMO / "model.safetensors"
    shape, visual = demo_shape(), stored_parameters(weights, "visual")
    assert shape.num_parameters == stored_parameters(weights)
    assert shape.num_trained(LearnerConfig()) == shape.num_parameters - visual
    assert shape.num_trained(LearnerConfig(freeze_vision_tower=False)) == shape.num_parameters


def test_parameters_of_the_known_models_are_those_on_the_hub():
    sizes = {name: shape.num_parameters for name, shape in KNOWN_MODELS.items()}
    assert sizes == {
        "Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen2.5-VL-7B-Instruct": ALL,
        "Qwen2-VL-2B-Instruct": 2_208_985_600,
        "Qwen2-VL-7B-Instruct": 8_291_375_616,
        "Qwen3-VL-2B-Instruct": 2_127_532_032,
        "Qwen3-VL-4B-Instruct": 4_437_815_808,
        "Qwen3-VL-8B-Instruct": 8_767_123_696,
    }


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_are_counted_in_every_family(model_type: str, tmp_path: Path):
    write_tiny_model(tmp_path, model_type)
    shape, weights = read_shape(tmp_path), tmp_path / "model.safetensors"
    assert shape is not None
    visual = stored_parameters(weights, "visual")
    assert shape.num_parameters == stored_parameters(weights)
    assert shape.num_trained(LearnerConfig()) == shape.num_parameters - visual
    merger = stored_parameters(weights, "visual.merger") + stored_parameters(
        weights, "visual.deepstack_merger"
    )
    alone = LearnerConfig(freeze_merger=False, freeze_language_model=True)
    assert shape.num_trained(alone) == merger
    tower = LearnerConfig(freeze_vision_tower=False, freeze_merger=True, freeze_language_model=True)
    assert shape.num_trained(tower) == visual - merger


def test_a_model_of_another_kind_is_refused_with_the_list(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    with pytest.raises(ConfigError, match=r"qwen3_vl_moe.*qwen2_vl, qwen2_5_vl, qwen3_vl"):
        read_shape(tmp_path)


def test_qwen3_shares_its_pixels_among_the_frames_and_writes_times_between_them(tmp_path: Path):
    qwen3 = KNOWN_MODELS["Qwen3-VL-2B-Instruct"]
    (tmp_path / "video_preprocessor_config.json").write_text('{"size": {"longest_edge": 65536}}')
    assert read_max_pixels(tmp_path, qwen3, 16) == 4096
    assert read_max_pixels(tmp_path, SEVEN, 16) == 65536
    assert video_tokens(qwen3, VideoConfig(max_frames=16), 4096) == 8 * (4 + 12)


def test_older_files_have_the_texts_sizes_at_the_top(tmp_path: Path):
    config = json.loads((DEMO / "config.json").read_text())
    flat = {**config.pop("text_config"), **config}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    assert read_shape(tmp_path) == demo_shape()


def test_a_configuration_without_a_size_has_no_shape(tmp_path: Path):
    config = json.loads((DEMO / "config.json").read_text())
    del config["vision_config"]["depth"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) is None


@pytest.mark.parametrize(
    ("frames", "pixels", "tokens"), [(32, 200_704, 4096), (33, 200_704, 4096), (2, 1568, 2)]
)
def test_two_frames_and_28_by_28_pixels_are_a_token(frames: int, pixels: int, tokens: int):
    assert video_tokens(SEVEN, VideoConfig(max_frames=frames), pixels) == tokens


def test_pixels_come_from_the_models_own_processor_in_either_format(tmp_path: Path):
    assert read_max_pixels(DEMO, SEVEN, 8) == 12_544
    assert read_max_pixels(tmp_path, SEVEN, 8) is None
    (tmp_path / "preprocessor_config.json").write_text('{"max_pixels": 99}')
    assert read_max_pixels(tmp_path, SEVEN, 8) == 99
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(ConfigError, match="processor_config"):
        read_max_pixels(tmp_path, SEVEN, 8)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, (2 * ALL, 4 * TEXT, 12 * TEXT)),
        (1, (2 * ALL, 4 * TEXT, 3 * TEXT)),
        (2, (2 * ALL, TEXT, 3 * TEXT)),
        (3, (ALL // 2, TEXT, 3 * TEXT)),
    ],
)
def test_zero_shards_optimiser_then_gradients_then_parameters(
    stage: int, expected: tuple[int, int, int]
):
    config = LearnerConfig(num_ranks=4, zero_stage=stage)
    found = rank_memory(SEVEN, config, OptimConfig())
    assert (found.parameter_bytes, found.gradient_bytes, found.optimizer_bytes) == expected
    assert found.total_bytes == sum(expected)


@pytest.mark.parametrize(
    ("stage", "offload", "on_gpu"),
    [
        (1, "optimizer", 2 * ALL + 4 * TEXT),
        (2, "optimizer", 2 * ALL),
        (3, "optimizer", ALL // 2),
        (3, "optimizer_and_parameters", 0),
    ],
)
def test_offload_leaves_on_the_gpu_what_it_computes_with(stage: int, offload: str, on_gpu: int):
    config = LearnerConfig(num_ranks=4, zero_stage=stage, offload=offload, num_gpus=1)
    found = rank_memory(SEVEN, config, OptimConfig())
    assert found.device_bytes == on_gpu
    assert found.device_bytes + found.offloaded_bytes == found.total_bytes
    on_cpu = rank_memory(SEVEN, config.model_copy(update={"num_gpus": 0.0}), OptimConfig())
    assert on_cpu.device_bytes == on_cpu.total_bytes == found.total_bytes


@pytest.mark.parametrize(("stage", "ranks_that_share"), [(0, 1), (2, 1), (3, 4)])
def test_a_reference_model_is_whole_on_every_rank_but_in_shards_under_zero_3(
    stage: int, ranks_that_share: int
):
    config = LearnerConfig(num_ranks=4, zero_stage=stage)
    without, found = (
        rank_memory(SEVEN, config, OptimConfig(), reference=reference)
        for reference in (False, True)
    )
    assert found.total_bytes - without.total_bytes == 2 * ALL // ranks_that_share


def test_float32_without_zero_keeps_no_copy_of_the_weights():
    config = LearnerConfig(dtype="float32", freeze_vision_tower=False)
    found = rank_memory(SEVEN, config, OptimConfig())
    assert found.total_bytes == (4 + 4 + 8) * ALL
    assert rank_memory(SEVEN, config, OptimConfig(kind="sgd")).optimizer_bytes == 0


def test_a_cached_token_is_keys_and_values_of_every_layer():
    config = RolloutConfig(max_prompt_length=900, max_response_length=99, kv_cache_gb=1.6)
    found = engine_memory(SEVEN, config)
    assert found.weight_bytes == 2 * ALL
    assert found.kv_bytes_per_token == 2 * 28 * 4 * 128 * 2
    assert found.kv_bytes_longest_sequence == 1000 * found.kv_bytes_per_token
    assert found.kv_cache_bytes == 2 * 2**30  # whole GiB
    assert found.kv_cache_tokens == 2 * 2**30 // found.kv_bytes_per_token


def test_tensor_parallelism_splits_weights_and_cache_but_no_head():
    one = engine_memory(SEVEN, RolloutConfig(num_gpus=1))
    eight = engine_memory(SEVEN, RolloutConfig(num_gpus=8, tensor_parallel_size=8))
    assert eight.weight_bytes == one.weight_bytes // 8
    assert eight.kv_bytes_per_token == one.kv_bytes_per_token // 4
    assert eight.kv_cache_tokens is None
