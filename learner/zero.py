"""The optimiser and DeepSpeed's configuration, from ours. Pure: DeepSpeed is not loaded.

What is left at DeepSpeed's own value is not named.
"""

from collections.abc import Sequence
from typing import Any

import torch

from learner.config import LearnerConfig, OptimConfig
from learner.model.trained_parts import Group

NO_CLIPPING = float(2**60)
_BUCKET = 100_000_000
"""Gradients reduced at once. DeepSpeed's 500 million hold 2 GB in bfloat16 where communication
overlaps (two buffers); NCCL is at full speed from some tens of megabytes on."""


def make_optimizer(groups: Sequence[Group], optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser, at learning rate 0: each step brings its own, and DeepSpeed may take a step of
    its own.

    torch's fused AdamW serves GPU and CPU, so that offloading needs no compiler on the node (as
    DeepSpeed's CPUAdam would), and no update holds copies of all moments (as torch's default would
    on a GPU).
    """
    parameters = [group.for_torch() for group in groups]
    if optim.kind == "sgd":
        return torch.optim.SGD(
            [{**group, "weight_decay": 0.0} for group in parameters], lr=0.0
        )  # as it always was: it checks gradients
    return torch.optim.AdamW(parameters, lr=0.0, betas=optim.betas, fused=True)


def deepspeed_config(config: LearnerConfig, optim: OptimConfig) -> dict[str, Any]:
    """DeepSpeed's configuration, for ``deepspeed.initialize``."""
    mixed = config.dtype == "bfloat16"
    sums_in_float32 = mixed and config.zero_stage >= 2  # below, engine.py sees to it
    return {
        "train_micro_batch_size_per_gpu": 1,  # we make the micro-batches; it only wants a number
        "managed_gradient_accumulation": False,
        # never 0, with which DeepSpeed would not compute the norm either
        "gradient_clipping": optim.grad_clip or NO_CLIPPING,
        "bf16": {"enabled": mixed, "check_grad_overflow": mixed},
        "data_types": {"grad_accum_dtype": "fp32" if sums_in_float32 else None},
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def frozen_config(config: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed's configuration of a model that does not train, in ZeRO-3 shards where those of the
    policy are kept."""
    zero = _zero(config)
    zero.pop("offload_optimizer", None)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        "steps_per_print": 10**9,
    }


def _zero(config: LearnerConfig) -> dict[str, Any]:
    on_gpu = config.num_gpus > 0
    to_cpu = {"device": "cpu", "pin_memory": on_gpu}
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        # with the number of backward passes open, DeepSpeed overlaps sharded gradients only
        "overlap_comm": on_gpu and config.zero_stage >= 2,
        "reduce_bucket_size": _BUCKET,
    }
    if config.offload != "none":
        zero["offload_optimizer"] = to_cpu
    if config.offload == "optimizer_and_parameters":
        zero["offload_param"] = to_cpu
    return zero
