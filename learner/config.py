"""How the policy is trained: optimiser, engine, GRPO's loss."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from learner.schedule import schedule
from wire.config import Config


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
    """Tokens of a micro-batch, into which groups are packed without padding. A larger group is
    split into several, each with the prompt; a longer response with its prompt is one by itself."""
    shared_prefix: bool = True
    """Compute a group's clip and prompt once for all its responses. Compared with repeated prompts
    on the first batch of a run; where it is not exact, the run goes on without it. false: repeat
    the prompt per response, at G(P+R) instead of P+GR tokens a group."""
    freeze_vision_tower: bool = True
    """Leave the vision tower as it is, as DeepIntuit does."""
    freeze_merger: bool | None = None
    """Leave the merger between tower and text as it is; none: as the tower."""
    freeze_language_model: bool = False
    """Leave the text model as it is: only merger or tower learn."""
    embedding_cache: bool = True
    """Keep what a frozen vision tower makes of each clip, beside the clips (``video.cache_dir``):
    it looks at a clip once in all epochs and runs. A tower that is trained is not cached."""
    embedding_cache_max_gb: float = Field(default=50.0, gt=0)
    """Embeddings beyond this are deleted, those not used for longest first; sooner where the disk
    is nearly full."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    preflight: bool = True
    """Before a stage's first update, see whether its largest batch fits into memory, and end the
    run with the settings to lower if it does not."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A step, a save or a load that takes longer has failed."""

    @property
    def merger_frozen(self) -> bool:
        """Whether the merger stays as it is."""
        return self.freeze_vision_tower if self.freeze_merger is None else self.freeze_merger

    @property
    def vision_frozen(self) -> bool:
        """Whether what the model makes of a clip never changes: tower and merger both stay."""
        return self.freeze_vision_tower and self.merger_frozen

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


class ObjectStoreConfig(Config):
    """Checked buckets through Ray's object store and shared memory: any machine, no NCCL."""

    kind: Literal["object_store"] = "object_store"
    bucket_mb: float = Field(default=256.0, gt=0)
    """Weights are gathered and sent in pieces of about this size."""


class NcclConfig(Config):
    """vLLM's NCCL backend: learner and engines on GPUs of their own."""

    kind: Literal["nccl"]
    port: int = Field(default=29_600, ge=1, le=65_535)
    """Where rank 0 of the learner waits for the engines."""


class IpcConfig(Config):
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
