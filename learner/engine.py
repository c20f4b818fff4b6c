"""The DeepSpeed engine: the only module that knows DeepSpeed, and the one place where its averaging is undone.

    loss (already divided by the step's global count) -> backward -> [all ranks] -> step

DeepSpeed divides what it is given twice: ``backward`` by the accumulation steps, the reduction by the number of ranks
(summing instead is refused under ZeRO-3). Our losses carry their own global denominator, so both are undone in
:meth:`DeepSpeedEngine.backward`, and only there: accumulation is unmanaged (any number of ``backward`` calls, then one
``step``), and the loss is multiplied by the number of ranks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch import TrainBatch
from learner.config import LearnerConfig, OptimConfig
from learner.policy import Policy, TokenScores


class DeepSpeedEngine:
    """A policy under DeepSpeed, with one optimiser. Every rank calls every method in the same order."""

    def __init__(self, policy: Policy, config: LearnerConfig, optim: OptimConfig) -> None:
        import deepspeed

        if config.gradient_checkpointing:
            policy.vlm.gradient_checkpointing_enable({"use_reentrant": False})
        trained = [p for p in policy.parameters() if p.requires_grad]
        self._optim = optim
        self._world = dist.get_world_size()
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            optimizer=_optimizer(trained, optim),
            config=_deepspeed_config(config, optim),
            dist_init_required=False,
        )
        self._norm = 0.0
        if config.zero_stage == 0:  # DeepSpeed clips here without telling the norm
            self._engine.clip_fp32_gradients = self._clip

    @property
    def policy(self) -> Policy:
        """The model itself; under ZeRO-3 its parameters are shards."""
        return self._engine.module  # type: ignore[no-any-return]

    def forward(self, batch: TrainBatch) -> TokenScores:
        """With gradient."""
        self._engine.train()
        return self._engine(_to(batch, self._engine.device))  # type: ignore[no-any-return]

    @torch.no_grad()
    def score(self, batch: TrainBatch) -> TokenScores:
        """Without gradient."""
        self._engine.eval()
        return self._engine(_to(batch, self._engine.device))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, batch: TrainBatch) -> Tensor:
        """Hidden states, float32 [rows, hidden size]."""
        self._engine.eval()
        return self.policy.features(_to(batch, self._engine.device)).float()

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradient. ``loss`` is divided by the global count already: see the module's text."""
        self._engine.backward(loss * self._world, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Update the weights. Returns the gradient's norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or self._norm)

    def _clip(self) -> None:
        trained = [p for p in self.policy.parameters() if p.grad is not None]
        limit = self._optim.grad_clip or float("inf")
        self._norm = float(torch.nn.utils.clip_grad_norm_(trained, limit))

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, by its Hugging Face name, tied ones once. All ranks iterate in step."""
        import deepspeed

        for name, parameter in self.policy.vlm.named_parameters():
            if hasattr(parameter, "ds_id"):
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach().clone()
            else:
                yield name, parameter.detach()

    def save(self, directory: Path, tag: str) -> None:
        """Weights, optimiser state and step count of every rank."""
        self._engine.save_checkpoint(str(directory), tag=tag)

    def load(self, directory: Path, tag: str) -> None:
        """The inverse of :meth:`save`, with the same number of ranks and ZeRO stage."""
        path, _ = self._engine.load_checkpoint(str(directory), tag=tag)
        if path is None:
            raise FileNotFoundError(f"no checkpoint {tag!r} in {directory}")

    def close(self) -> None:
        """Free hooks and buffers, so that another engine can take this one's place."""
        self._engine.destroy()


def _optimizer(parameters: list[torch.nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    if optim.kind == "sgd":
        return torch.optim.SGD(parameters, lr=optim.learning_rate)
    return torch.optim.AdamW(
        parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay
    )


def _deepspeed_config(config: LearnerConfig, optim: OptimConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # we make the micro-batches; DeepSpeed only wants a number
        "managed_gradient_accumulation": False,
        # never 0, with which DeepSpeed would not compute the norm either
        "gradient_clipping": optim.grad_clip or float(2**60),
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def _to(batch: TrainBatch, device: torch.device) -> TrainBatch:
    if device.type == "cpu":
        return batch
    from dataclasses import fields, replace

    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    moved = {k: v.to(device, non_blocking=True) for k, v in tensors.items() if torch.is_tensor(v)}
    return replace(batch, **moved)
