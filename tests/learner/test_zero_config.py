"""What DeepSpeed is told, read back through its own configuration classes where that is cheap."""

import pytest
import torch

from learner.config import LearnerConfig, OptimConfig
from learner.model.trained_parts import Group, Part
from learner.zero import deepspeed_config, make_optimizer

STAGES = (0, 1, 2, 3)


def zero_of(**config) -> dict:
    return deepspeed_config(LearnerConfig(**config), OptimConfig())["zero_optimization"]


@pytest.mark.parametrize("stage", STAGES)
def test_communication_overlaps_where_deepspeed_can_and_there_is_a_gpu(stage: int):
    assert zero_of(zero_stage=stage, num_gpus=1)["overlap_comm"] is (stage >= 2)
    assert zero_of(zero_stage=stage)["overlap_comm"] is False


def test_offload_goes_to_memory_that_a_gpu_reaches_at_full_speed():
    zero = zero_of(zero_stage=3, num_gpus=1, offload="optimizer_and_parameters")
    pinned = {"device": "cpu", "pin_memory": True}
    assert zero["offload_optimizer"] == zero["offload_param"] == pinned
    zero = zero_of(zero_stage=2, offload="optimizer")
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert "offload_param" not in zero
    assert "offload_optimizer" not in zero_of(zero_stage=3)


def test_groups_have_their_own_weight_decay_and_gradient_checks_have_none():
    weight, norm = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,)))
    groups = [
        Group(part=Part.LANGUAGE_MODEL, parameters=[weight], weight_decay=0.1, scale=1.0),
        Group(part=Part.LANGUAGE_MODEL, parameters=[norm], weight_decay=0.0, scale=1.0),
    ]
    weight.grad, norm.grad = torch.zeros_like(weight), torch.zeros_like(norm)
    optimizer = make_optimizer(groups, OptimConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    assert torch.allclose(weight, torch.tensor(1 - 0.5 * 0.1))
    assert torch.equal(norm, torch.ones(2))
    plain = make_optimizer(groups, OptimConfig(kind="sgd"))
    assert [group["weight_decay"] for group in plain.param_groups] == [0.0, 0.0]
