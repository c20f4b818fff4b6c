"""Estimate of a run's timings from sizes and speeds."""

from pathlib import Path

import pytest

from cluster.config.recipe import read_recipe
from cluster.simulation.estimate import GpuSpeed, ModelSizes, estimated
from wire.errors import ConfigError

RECIPES = Path(__file__).parents[3] / "recipes"
SIZES = ModelSizes(
    parameters=8_000_000_000,
    engine_bytes=16_000_000_000,
    kv_bytes_per_token=50_000,
    sent_bytes=16_000_000_000,
    checkpoint_bytes=96_000_000_000,
    prompt_tokens=4000,
)


def test_decoding_reads_the_weights_and_updates_compute_by_all_ranks():
    config = read_recipe(RECIPES / "smarthome-7b.toml", [])
    timings = estimated(config, SIZES, GpuSpeed(tflops=400, gb_per_s=2000))
    assert timings.decode_step_s == pytest.approx(16e9 / (0.7 * 2000e9))
    assert timings.prompt_s == pytest.approx(2 * 8e9 * 4000 / 400e12)
    length = 0.4 * 2048
    assert timings.response_length == pytest.approx(length)
    # gradient checkpointing computes the forward pass twice; four ranks; the prompt is shared by 8
    flops = 8 * 8e9 * (length + 4000 / 8)
    assert config.learner.gradient_checkpointing
    assert timings.learner_s_per_trace == pytest.approx(flops / (4 * 400e12))
    assert timings.weights_gb == 16


def test_what_cannot_be_estimated_is_said_with_what_to_give():
    cpu = read_recipe(RECIPES / "demo.toml", [])
    with pytest.raises(ConfigError, match="nobody knows a CPU's speed; give --from RUN"):
        estimated(cpu, SIZES, GpuSpeed())
    gpu = read_recipe(RECIPES / "smarthome-7b.toml", [])
    with pytest.raises(ConfigError, match=r"sizes of .* are not known here"):
        estimated(gpu, None, GpuSpeed())
