"""How the policy is trained: optimiser, engine, GRPO's loss."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wire.config import Config


class OptimConfig(Config):
    """One stage's optimiser and schedule: linear warm-up, then linear decay to zero or constant."""

    learning_rate: float = Field(default=1e-6, gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    kind: Literal["adamw", "sgd"] = "adamw"
    """The optimiser; sgd is for checking gradients."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of a whole step; 0: no clipping."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates until the peak learning rate."""
    warmup_frac: float = Field(default=0.0, ge=0, lt=1)
    """The same as a share of a stage's updates; where it is set, ``warmup_steps`` must be 0."""
    decay: Literal["constant", "linear"] = "constant"
    """After warm-up."""

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Learning rate of update ``step`` (from 0) out of ``num_steps``."""
        warmup = self.warmup_steps or round(self.warmup_frac * num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.decay == "constant" or num_steps <= warmup:
            return self.learning_rate
        left = (num_steps - step) / (num_steps - warmup)
        return self.learning_rate * max(0.0, left)

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimConfig":
        if self.warmup_steps and self.warmup_frac:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and warmup_frac={self.warmup_frac:g} both say "
                "how long to warm up; set one of them to 0"
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
    """Compute threads of a rank on CPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations; the optimiser updates float32 copies. In bfloat16 the
    gradients of micro-batches add up in float32 from ZeRO stage 2 on."""
    max_tokens_per_batch: int = Field(default=16_384, ge=1)
    """Tokens of a micro-batch, into which groups are packed without padding. A larger group is
    split into several, each with the prompt; a longer response with its prompt is one by itself."""
    shared_prefix: bool = True
    """Compute a group's clip and prompt once for all its responses. Compared with repeated prompts
    on the first batch of a run; where it is not exact, the run goes on without it. false: repeat
    the prompt per response, at G(P+R) instead of P+GR tokens a group."""
    freeze_vision_tower: bool = True
    """Train the language model alone, as DeepIntuit does; the merger belongs to the tower."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A step, a save or a load that takes longer has failed."""


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
