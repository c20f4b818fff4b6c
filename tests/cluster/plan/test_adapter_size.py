from pathlib import Path

import pytest

from cluster.plan.adapter_size import engine_adapter_bytes, trained_adapter
from cluster.plan.model_size import KNOWN_MODELS, rank_memory, read_shape
from learner.config import LearnerConfig, LoraConfig, OptimConfig
from tests.tiny_models import MODEL_TYPES, write_tiny_model

SEVEN = KNOWN_MODELS["Qwen2.5-VL-7B-Instruct"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_size_is_that_of_pefts_own_adapter(tmp_path: Path, model_type: str):
    from learner.model.lora import adapt
    from learner.model.policy import Policy
    from learner.model.trained_parts import frozen_parts

    folder = write_tiny_model(tmp_path, model_type)
    shape = read_shape(folder)
    assert shape is not None
    for targets in ("all-linear", ["q_proj", "down_proj"]):
        for unfrozen in ({}, {"freeze_merger": False}, {"freeze_vision_tower": False}):
            lora = {"rank": 4, "target_modules": targets, "handoff": "merged"}
            config = LearnerConfig(lora=lora, **unfrozen)
            vlm = Policy.load(folder, "float32").vlm
            adapt(vlm, config.lora, frozen_parts(config))
            trained = [p.numel() for p in vlm.parameters() if p.requires_grad]
            assert trained_adapter(shape, config) == sum(trained)


def test_a_rank_holds_the_model_and_trains_the_adapter_alone():
    learner = LearnerConfig(lora=LoraConfig(rank=16), dtype="bfloat16")
    count = trained_adapter(SEVEN, learner)
    assert count == 16 * 28 * (  # hidden 3584, keys 512, inner 18944
        2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18_944)
    )
    found = rank_memory(SEVEN, learner, OptimConfig(), count)
    assert found.parameter_bytes == 2 * (SEVEN.num_parameters + count)
    assert found.gradient_bytes == 4 * count
    assert found.optimizer_bytes == 12 * count
    assert trained_adapter(SEVEN, LearnerConfig()) == 0


def test_an_engine_has_room_for_every_layer_whatever_the_targets():
    every = trained_adapter(SEVEN, LearnerConfig(lora=LoraConfig(rank=16)))
    assert engine_adapter_bytes(SEVEN, 16, 3, "bfloat16") == 3 * 2 * every
