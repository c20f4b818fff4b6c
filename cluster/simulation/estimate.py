"""Estimate of a run's timings from the model's sizes and the GPUs' speed, where no run was
measured."""

from dataclasses import dataclass

from cluster.config.controls import grpo_of
from cluster.config.recipe import RunConfig
from cluster.simulation.timings import Timings
from wire.errors import ConfigError

DRIVER_S_PER_TRACE = 0.0007
"""CPU of the driver per trace of some hundred tokens, over pool, Ray, reward, archive and rows:
tests/benchmarks/simulation.py measures it."""
_BUS_GB_PER_S = 20.0  # from a node's memory into its GPUs
_DISK_GB_PER_S = 1.0
_START_S, _RESTART_S = 120.0, 180.0
_REWARD_S, _ARCHIVE_S = 0.02, 0.05
_OF_LONGEST = 0.4
_READS = 0.7  # of a memory's bandwidth, what decoding reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes of a model that decide how long its work takes."""

    parameters: int
    engine_bytes: int
    """Weights of one engine, on each of its GPUs."""
    kv_bytes_per_token: int
    """On each of its GPUs."""
    sent_bytes: int
    """Weights that engines get after a step: the model, or an adapter."""
    checkpoint_bytes: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpeed:
    """Speed of a GPU: an H100's, in bfloat16."""

    tflops: float = 400.0
    """Arithmetic that it reaches, TFLOP/s."""
    gb_per_s: float = 3350.0
    """Bandwidth of its memory."""


def estimated(config: RunConfig, sizes: ModelSizes | None, gpu: GpuSpeed) -> Timings:
    """Estimate a run's timings: decoding by what it reads, prompts and updates by their arithmetic.

    Raises ConfigError where there is nothing to estimate from.
    """
    rollout, learner, grpo = config.rollout, config.learner, grpo_of(config)
    if not (rollout.num_gpus and learner.num_gpus) or sizes is None:
        lacks = (
            "this recipe's workers have no GPUs, and nobody knows a CPU's speed"
            if sizes is not None
            else f"the sizes of {config.model} are not known here"
        )
        raise ConfigError(
            f"{lacks}; give --from RUN (a run whose timings are measured), or --time "
            "decode_step_s=SECONDS --time response_length=TOKENS and what else matters"
        )
    length = max(2.0, _OF_LONGEST * rollout.max_response_length)
    flops, reads = gpu.tflops * 1e12, _READS * gpu.gb_per_s * 1e9
    split = rollout.tensor_parallel_size
    held = sizes.kv_bytes_per_token * (sizes.prompt_tokens + length / 2)
    per_trace = length + sizes.prompt_tokens / rollout.group_size  # the prompt is shared
    times = 8 if learner.gradient_checkpointing else 6
    epochs = grpo.ppo_epochs
    return Timings(
        decode_step_s=sizes.engine_bytes / reads,
        decode_per_sequence_s=held / reads + 2 * sizes.parameters / split / flops,
        prompt_s=2 * sizes.parameters * sizes.prompt_tokens / split / flops,
        response_length=length,
        reward_s=_REWARD_S,
        archive_s=_ARCHIVE_S,
        driver_s_per_trace=DRIVER_S_PER_TRACE,
        learner_s_per_trace=epochs
        * times
        * sizes.parameters
        * per_trace
        / (learner.num_ranks * flops),
        learner_s_per_step=1.0,
        weights_gb=sizes.sent_bytes / 1e9,
        load_weights_s=sizes.sent_bytes / split / (_BUS_GB_PER_S * 1e9) + 1.0,
        save_s=sizes.checkpoint_bytes / (_DISK_GB_PER_S * 1e9),
        engine_start_s=_START_S,
        learner_restart_s=_RESTART_S,
    )
