"""How the policy is trained: optimiser, engine, GRPO's loss."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from learner.schedule import schedule
from wire.config import Config

MAX_ADAPTER_RANK = 512
"""The largest rank that vLLM serves as an adapter."""


class OptimConfig(Config):
    """One stage's optimiser and schedule: linear warm-up, then constant, or a decay that ends with
    the stage. All parts of the model follow one schedule, each to a peak of its own."""

    learning_rate: float = Field(default=1e-6, gt=0, allow_inf_nan=False)
    """Peak learning rate; of the language model, where the others have one of their own."""
    merger_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Peak learning rate of the merger between tower and text; none: ``learning_rate``."""
    vision_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Peak learning rate of the vision tower; none: ``learning_rate``."""
    kind: Literal["adamw", "sgd"] = "adamw"
    """The optimiser; sgd is for checking gradients."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay."""
    decay_norms: bool = True
    """Weight decay on norms and biases too, as in verl; false: on matrices alone, as in
    transformers' Trainer and TRL."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of a whole step; 0: no clipping."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates until the peak learning rate."""
    warmup_frac: float = Field(default=0.0, ge=0, lt=1)
    """The same as a share of a stage's updates; where it is set, ``warmup_steps`` must be 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up."""
    min_lr_frac: float = Field(default=0.0, ge=0, le=1)
    """What linear and cosine decay end at, as a share of the peak."""

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Learning rate of update ``step`` (from 0) out of ``num_steps``; see
        learner/schedule.py."""
        warmup = self.warmup_steps or round(self.warmup_frac * num_steps)
        share = schedule(self.decay, step, num_steps, warmup, self.min_lr_frac)
        return self.learning_rate * share

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimConfig":
        if self.warmup_steps and self.warmup_frac:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and warmup_frac={self.warmup_frac:g} both say "
                "how long to warm up; set one of them to 0"
            )
        return self

    @model_validator(mode="after")
    def _floor_of_a_decay(self) -> "OptimConfig":
        if self.min_lr_frac and self.decay == "constant":
            raise ValueError(
                f"min_lr_frac={self.min_lr_frac:g} is where a decay ends, and decay='constant' has "
                "none; set decay to 'linear' or 'cosine', or leave min_lr_frac out"
            )
        return self

    @model_validator(mode="after")
    def _betas_below_one(self) -> "OptimConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"betas={self.betas} are decay rates; give two numbers from 0 to below 1, such as "
                "(0.9, 0.999)"
            )
        return self


class LoraConfig(Config):
    """Additions of low rank to linear layers are trained, the model itself stays (LoRA, through
    peft). Tower and merger get them only where ``learner.freeze_...`` does not leave them out."""

    rank: int = Field(default=32, ge=1)
    """Rank of each addition (verl: lora_rank)."""
    alpha: int = Field(default=32, ge=1)
    """An addition is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of an addition's input, while training. Above 0 the trained policy is not quite the one that
    wrote the traces."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an addition: all linear ones, or those whose name ends so, such as
    ``["q_proj", "v_proj"]``."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)."""
    handoff: Literal["adapter", "merged"] = "adapter"
    """What goes to the engines after a step: the additions alone, which vLLM applies beside the
    model without pausing; or the whole model with them added in."""

    @property
    def shape(self) -> str:
        """All that decides which tensors an adapter has, and what they mean."""
        names = self.target_modules
        targets = names if isinstance(names, str) else ",".join(sorted(names))
        rs = ", rslora" if self.use_rslora else ""
        return f"rank {self.rank}, alpha {self.alpha}{rs}, on {targets}"

    @model_validator(mode="after")
    def _fits_vllm(self) -> "LoraConfig":
        if self.handoff == "adapter" and self.rank > MAX_ADAPTER_RANK:
            raise ValueError(
                f"rank={self.rank} is more than vLLM serves as an adapter ({MAX_ADAPTER_RANK}); "
                "lower it, or set handoff = 'merged'"
            )
        return self

    @field_validator("target_modules")
    @classmethod
    def _some(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("target_modules names no layer; give 'all-linear' or some names")
        return value


class LearnerConfig(Config):
    """Learner ranks and the DeepSpeed engine; the same for all stages."""

    num_ranks: int = Field(default=1, ge=1)
    """Data-parallel ranks."""
    num_cpus: float = Field(default=0.5, gt=0)
    """CPUs that each rank reserves in Ray."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs that each rank reserves in Ray; 0 trains on CPU."""
    num_threads: int = Field(default=2, ge=1)
    """Compute threads of a rank on CPU, and of an optimiser that is offloaded to it."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations; the optimiser updates float32 copies. In bfloat16 the
    gradients of micro-batches add up in float32."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """What waits in the node's memory while the GPU does not need it: nothing, the optimiser (from
    ZeRO stage 1 on; it then computes on the CPU), or the parameters as well (ZeRO stage 3)."""
    max_tokens_per_batch: int = Field(default=16_384, ge=1)
    """Padded tokens of a micro-batch; a longer row gets a micro-batch of its own."""
    freeze_vision_tower: bool = True
    """Leave the vision tower as it is, as DeepIntuit does."""
    freeze_merger: bool | None = None
    """Leave the merger between tower and text as it is; none: as the tower."""
    freeze_language_model: bool = False
    """Leave the text model as it is: only merger or tower learn."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    lora: LoraConfig | None = None
    """Train additions of low rank instead of the weights; none: full training."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A step, a save or a load that takes longer has failed."""

    @property
    def hands_off_adapters(self) -> bool:
        """Whether engines get adapters instead of whole models."""
        return self.lora is not None and self.lora.handoff == "adapter"

    @property
    def merger_frozen(self) -> bool:
        """Whether the merger stays as it is."""
        return self.freeze_vision_tower if self.freeze_merger is None else self.freeze_merger

    @property
    def vision_frozen(self) -> bool:
        """Whether what the model makes of a clip never changes: tower and merger both stay."""
        return self.freeze_vision_tower and self.merger_frozen

    @model_validator(mode="after")
    def _adapted_tower_is_merged(self) -> "LearnerConfig":
        if self.hands_off_adapters and not self.vision_frozen:
            raise ValueError(
                "lora with freeze_vision_tower or freeze_merger = false adapts what vLLM makes of "
                "a clip, which its caches do not follow as an adapter; set lora.handoff = "
                "'merged', or freeze both"
            )
        return self

    @model_validator(mode="after")
    def _something_trains(self) -> "LearnerConfig":
        if self.freeze_language_model and self.vision_frozen:
            raise ValueError(
                "freeze_language_model, freeze_merger and freeze_vision_tower leave nothing to "
                "train; set one of them to false"
            )
        return self

    @model_validator(mode="after")
    def _offload_fits(self) -> "LearnerConfig":
        least, range_ = {
            "none": (0, ""),
            "optimizer": (1, "of 1 or more"),
            "optimizer_and_parameters": (3, "of 3"),
        }[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload={self.offload!r} needs a zero_stage {range_}, got {self.zero_stage}: "
                "DeepSpeed offloads what ZeRO shards; raise zero_stage, or set offload to 'none'"
            )
        return self


class GrpoLossConfig(Config):
    """The clipped surrogate with DeepIntuit's settings (seeds.md 1.5); verl's names."""

    clip_ratio_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio of a token with negative advantage counts down to 1 - this."""
    clip_ratio_high: float = Field(default=0.28, gt=0)
    """The ratio of a token with positive advantage counts up to 1 + this (clip-higher)."""
    clip_ratio_c: float = Field(default=3.0, gt=1)
    """Dual clip: a token with negative advantage A loses at most -c A."""
    rollout_is_threshold: float = Field(default=2.0, gt=0)
    """Truncated importance sampling: cap of a token's weight between rollout engine and trainer."""
    adv_epsilon: float = Field(default=1e-6, ge=0)
    """Added to a group's standard deviation."""


class _Bucketed(Config):
    bucket_mb: float = Field(default=256.0, gt=0)
    """ZeRO-3 shards are gathered in pieces of about this size; ``object_store`` also sends these,
    from two such pieces of shared memory."""

    @property
    def bucket_bytes(self) -> int:
        """The size of a piece."""
        return int(self.bucket_mb * 2**20)


class ObjectStoreConfig(_Bucketed):
    """Checked buckets through shared memory, between nodes through Ray's object store: any
    machine, no NCCL."""

    kind: Literal["object_store"] = "object_store"


class NcclConfig(_Bucketed):
    """vLLM's NCCL backend: learner and engines on GPUs of their own."""

    kind: Literal["nccl"]
    port: int = Field(default=29_600, ge=1, le=65_535)
    """Where rank 0 of the learner waits for the engines."""


class IpcConfig(_Bucketed):
    """vLLM's CUDA IPC backend: learner and engines share GPUs."""

    kind: Literal["ipc"]


TransferConfig = Annotated[ObjectStoreConfig | NcclConfig | IpcConfig, Field(discriminator="kind")]


class ParityConfig(Config):
    """The check after every weight update that engine and learner compute the same logprobs."""

    tolerance: float = Field(default=0.5, gt=0)
    """Largest |engine - learner| / max(1, |learner|) of a probe token's logprob. With float32 on
    both sides 1e-4 holds whatever this says: the policy's own noise came to 1e-5 within 20
    steps of one demo run, and the smallest fault tried gave 2e-2. bfloat16: up to 0.25."""

    def limit(self, rollout_dtype: str, learner_dtype: str) -> float:
        """The limit that holds for these precisions."""
        return 1e-4 if rollout_dtype == learner_dtype == "float32" else self.tolerance
