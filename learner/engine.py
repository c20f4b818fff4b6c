"""The DeepSpeed engine: the only module that uses DeepSpeed, and where its averaging is undone.

    loss, divided by the step's global count -> backward, any number of times -> step

DeepSpeed divides what it is given twice: ``backward`` by the accumulation steps, the reduction by
the number of ranks (summing instead is refused under ZeRO-3). Our losses carry their own global
denominator, so both are undone in :meth:`DeepSpeedEngine.backward`, and only there: accumulation is
unmanaged (any number of ``backward`` calls, then one ``step``), and the loss is multiplied by the
number of ranks.
"""

import gc
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner import checkpoint_fragments as fragments
from learner.config import LearnerConfig, OptimConfig
from learner.model.lora import WeightKind, WeightPart, weight_parts
from learner.model.policy import Policy
from learner.model.token_head import TokenScores
from learner.model.trained_parts import Part, parameter_groups
from learner.ranks.build_locks import builds_folder, remove_stale_locks
from learner.ranks.linked_libraries import link_libraries
from learner.ranks.rendezvous import join_rendezvous
from learner.shared_prefix.batch import TrainBatch
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.zero import NO_CLIPPING, deepspeed_config, frozen_config, make_optimizer
from wire.errors import ConfigError
from wire.weights import split_by_size

LORA_FILE = "lora.json"
"""File of a checkpoint that says what its adapter is."""


def join_ranks(config: LearnerConfig, rank: int, address: str, port: int) -> None:
    """Join the process group of the learner's ranks; once per process, further calls change
    nothing."""
    torch.set_num_threads(config.num_threads)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(config.num_ranks),
        LOCAL_RANK="0",  # Ray shows an actor only its own GPU
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    if not config.num_gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if dist.is_initialized():
        joined = (dist.get_rank(), dist.get_world_size())
        assert joined == (rank, config.num_ranks), f"already rank, number of ranks = {joined}"
        return
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # else a page per stage and rank
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)  # DeepSpeed's calls
    remove_stale_locks(builds_folder())
    link_libraries([builds_folder()])
    backend = "nccl" if config.num_gpus else "gloo"
    dist.init_process_group(
        backend,
        store=join_rendezvous(config.num_ranks, address, port, config.timeout_s),
        rank=rank,
        world_size=config.num_ranks,
        timeout=timedelta(seconds=config.timeout_s),
        # as DeepSpeed does: with it, later groups are split off the first
        device_id=torch.device("cuda", 0) if config.num_gpus and config.num_ranks > 1 else None,
    )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def shard(policy: Policy, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Cut a policy's parameters into ZeRO-3 shards, one after another: no rank ever holds more of
    the model in ``dtype``, or on its device, than its shards and one whole parameter. All ranks
    call.

    ``deepspeed.initialize`` would move the whole model to every rank's device first.
    """
    import deepspeed

    empty = torch.nn.Module()
    init = deepspeed.zero.Init(module=empty, config_dict_or_path=settings, dtype=dtype)
    for parameter in policy.parameters():
        parameter.data = parameter.data.to(dtype)
        init._convert_to_zero_parameters([parameter])
    for buffer in policy.buffers():  # DeepSpeed leaves them where they are, once there are shards
        buffer.data = buffer.data.to(init.local_device)


class DeepSpeedEngine:
    """A policy under DeepSpeed, with one optimiser. All ranks call every method in one order."""

    def __init__(self, policy: Policy, config: LearnerConfig, optim: OptimConfig) -> None:
        import deepspeed

        if config.gradient_checkpointing:
            policy.vlm.gradient_checkpointing_enable({"use_reentrant": False})
        self._lora = config.lora.shape if config.lora else "none"
        settings = deepspeed_config(config, optim)
        if config.zero_stage == 3:
            shard(policy, settings, getattr(torch, config.dtype))
        groups = parameter_groups(policy, optim)
        self._scales = [(group.part, group.scale) for group in groups]
        self._clip_at = optim.grad_clip or NO_CLIPPING
        self._dtype = getattr(torch, config.dtype)
        self._world = dist.get_world_size()
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            optimizer=make_optimizer(groups, optim),
            config=settings,
            dist_init_required=False,
        )
        # DeepSpeed's bfloat16 optimiser without ZeRO starts with a step of its own, which would
        # count in AdamW's bias correction and shrink the first update by a quarter.
        self._engine.basic_optimizer.state.clear()
        if config.dtype == "bfloat16" and config.zero_stage < 2:
            # DeepSpeed refuses to add up in float32 without ZeRO, and for stage 1 it has another
            # optimiser, with two copies of the gradients; torch needs neither
            for parameter in (p for group in groups for p in group.parameters):
                parameter.grad_dtype = torch.float32
        self._norm = 0.0
        self._offloaded = False
        # Without ZeRO DeepSpeed clips without telling the norm, and updates even by NaN.
        self._engine.clip_fp32_gradients = self._clip

    @property
    def policy(self) -> Policy:
        """The model; under ZeRO-3 its parameters are shards."""
        return self._engine.module  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return torch.device(self._engine.device)

    def to_device(self, batch: TrainBatch) -> TrainBatch:
        """Move a batch to the model's device."""
        return batch.to(self._engine.device)

    def forward(self, batch: TrainBatch) -> TokenScores:
        """Scores of every response token, with gradient."""
        self._engine.train()
        return self._engine(batch)  # type: ignore[no-any-return]

    @torch.no_grad()
    def score(self, batch: TrainBatch) -> TokenScores:
        """Scores of every response token, without gradient."""
        self._engine.eval()
        return self._engine(batch)  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, batch: TrainBatch) -> Tensor:
        """Hidden states, float32 [rows, hidden size]."""
        self._engine.eval()
        return self._engine(batch, features=True).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def look(self, pixels: Pixels) -> ClipFeatures:
        """Vision-tower features of clips, without gradient."""
        self._engine.eval()
        embeds, *deepstack = self._engine(pixels.to(self._engine.device))
        return ClipFeatures(embeds, tuple(deepstack))

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradient; ``loss`` is divided by the global count already."""
        self._engine.backward(loss * self._world, scale_wrt_gas=False)

    def trial_step(self, batch: TrainBatch) -> None:
        """Forward and backward pass of a batch that trains nothing: every gradient is zero."""
        assert not batch.mask.any(), "a trial step of rows that train"
        logp = self.forward(batch).logp
        self.backward(logp.where(batch.mask, 0.0).sum())
        self._engine._unmanaged_backward_count = 0  # it is no sample

    @property
    def optimizer_bytes_to_come(self) -> int:
        """Bytes that this rank's first update will allocate: AdamW makes its two moments then."""
        groups = self._engine.optimizer.param_groups
        if self._engine.basic_optimizer.state or "betas" not in groups[0]:
            return 0
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        numbers = sum(getattr(p, "ds_numel", p.numel()) for p in trained)
        shards = self._world if self._engine.zero_optimization_stage() else 1
        return 2 * 4 * numbers // shards

    def offload_moments(self) -> None:
        """Move the optimiser's moments to the node's memory; :meth:`step` takes them back. Free
        what torch keeps of the GPU, too. (DeepSpeed's own ``offload_states`` knows one optimiser
        under ZeRO 3, not torch's.)"""
        from deepspeed.runtime.zero.offload_states import offload_optimizer_states

        offload_optimizer_states(self._engine.basic_optimizer, "cpu", pin_memory=True)
        self._offloaded = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def reload_moments(self) -> None:
        """Move the moments back to the optimiser's device, if they are not there."""
        from deepspeed.runtime.zero.offload_states import reload_optimizer_states

        if self._offloaded:
            reload_optimizer_states(self._engine.basic_optimizer, self.device)
            self._offloaded = False

    def step(self, learning_rate: float) -> float:
        """Update the weights. Returns the gradient's norm before clipping.

        ``learning_rate``: of the language model; the other parts keep their ratio to it. A gradient
        that is not finite changes neither weights nor optimiser; its norm says so.
        """
        groups = self._engine.optimizer.param_groups
        for group, (_, scale) in zip(groups, self._scales, strict=True):
            group["lr"] = learning_rate * scale
        self.reload_moments()
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        norm = self._norm if norm is None else float(norm)
        return norm

    def learning_rates(self, learning_rate: float) -> dict[Part, float]:
        """Learning rate of each trained part, in a step at this learning rate of the language
        model."""
        return {part: learning_rate * scale for part, scale in self._scales}

    def _clip(self) -> None:
        trained = [p for p in self.policy.parameters() if p.grad is not None]
        self._norm = float(torch.nn.utils.clip_grad_norm_(trained, self._clip_at))
        if not math.isfinite(self._norm):
            for parameter in trained:
                parameter.grad = None  # the optimiser passes over it

    def weight_shapes(self, kind: WeightKind = "merged") -> list[tuple[str, tuple[int, ...]]]:
        """Names and unsharded shapes of the policy's weights, in the order of full_parameters."""
        parts = weight_parts(self.policy.vlm, kind)
        return [(name, _whole_shape(parameters[0])) for name, parameters, _ in parts]

    def full_parameters(
        self, bucket_bytes: int = 1 << 28, kind: WeightKind = "merged"
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and unsharded values of the policy's weights. All ranks iterate, in step.

        ZeRO-3 shards are gathered by buckets of about ``bucket_bytes``, one collective call each;
        a bucket's memory is free once its tensors are dropped and the next one is asked for. Never
        write into a tensor: it may be the model's own.
        """
        import deepspeed

        def num_bytes(part: WeightPart) -> int:
            return sum(math.prod(_whole_shape(p)) * p.element_size() for p in part.parameters)

        for bucket in split_by_size(weight_parts(self.policy.vlm, kind), num_bytes, bucket_bytes):
            needed = [parameter for part in bucket for parameter in part.parameters]
            with deepspeed.zero.GatheredParameters(needed):
                # on leaving, DeepSpeed drops its reference to the gathered memory; these keep it
                whole = [(part.name, part.make()) for part in bucket]
            yield from whole
            del whole

    def can_settle(self, dtype: torch.dtype) -> bool:
        """Whether the parameters, which engines are sent in ``dtype``, can be kept in memory that
        engines read: they are whole, of that precision, on a CPU, and nothing else has views of
        them, as ZeRO's and DeepSpeed's bfloat16 optimisers have."""
        kept_whole = self._engine.zero_optimization_stage() == 0 and self._lora == "none"
        return kept_whole and dtype == torch.float32 == self._dtype and self.device.type == "cpu"

    def settle(self, places: Mapping[str, Tensor]) -> None:
        """Move the parameters of these names into these tensors, which hold their values already.
        Only where :meth:`can_settle` is true."""
        parameters = dict(self.policy.vlm.named_parameters())
        for name, place in places.items():
            parameters[name].data = place

    def tower_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of the vision tower in the precision of the forward pass, each whole while it
        is iterated over. All ranks iterate."""
        import deepspeed

        for name, parameter in self.policy.tower.named_parameters():
            sharded = hasattr(parameter, "ds_id")
            with deepspeed.zero.GatheredParameters([parameter], enabled=sharded):
                yield name, parameter.detach()

    def save(self, folder: Path) -> None:
        """Save trained weights, optimiser state and step counts: this rank's files in
        ``folder``."""
        fragments.write(self._engine, folder)
        if dist.get_rank() == 0:
            (folder / LORA_FILE).write_text(json.dumps(self._lora))

    def load(self, folder: Path) -> None:
        """Load what :meth:`save` wrote, under any number of ranks and any ZeRO stage.

        Raises ConfigError for another kind of adapter, or other trained parameters.
        """
        if (saved_lora := json.loads((folder / LORA_FILE).read_text())) != self._lora:
            raise ConfigError(
                f"cannot continue from {folder}: learner.lora is {self._lora}, the checkpoint "
                f"has {saved_lora}; set what the checkpoint has, or start a new run from exported "
                "weights"
            )
        self.reload_moments()
        fragments.read(self._engine, folder)

    def close(self) -> None:
        """Free hooks and memory, so that another engine can take this one's place."""
        _free(self._engine)
        del self._engine
        _collect()


class FrozenEngine:
    """The reference of a KL term under ZeRO-3: a frozen copy of the weights in shards, gathered
    layer by layer. All ranks call every method together."""

    def __init__(self, policy: Policy, config: LearnerConfig) -> None:
        import deepspeed

        settings = frozen_config(config)
        shard(policy.requires_grad_(False), settings, getattr(torch, config.dtype))
        self._engine, *_ = deepspeed.initialize(
            model=policy, config=settings, dist_init_required=False
        )

    @torch.no_grad()
    def logprobs(self, batch: TrainBatch) -> Tensor:
        """Logprobs of every response token of a batch [N], on the batch's device."""
        self._engine.eval()
        return self._engine(batch).logp  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free its memory."""
        _free(self._engine)
        del self._engine
        _collect()


def _free(engine: Any) -> None:
    """Free the memory of a DeepSpeed engine, its model's too."""
    engine.destroy()
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_id"):  # ZeRO-3 keeps every model of the process alive: empty
            parameter.ds_tensor = None
            vars(engine.optimizer).clear()
        parameter.data = parameter.data.new_empty(0)


def _collect() -> None:
    gc.collect()  # DeepSpeed's engine and its optimiser point at each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """Unsharded shape of a parameter; a ZeRO-3 shard itself is empty."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
