"""How the policy is trained: optimiser, engine, GRPO's loss."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

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
    """Padded tokens of a micro-batch; a longer row gets a micro-batch of its own."""
    freeze_vision_tower: bool = True
    """Train the language model alone, as DeepIntuit does; the merger belongs to the tower."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A step, a save or a load that takes longer has failed."""


class GrpoLossConfig(Config):
    """What GRPO optimises; verl's names, DeepIntuit's settings (seeds.md 1.5). The formulas and
    their sources are in docs/objectives.md."""

    adv_estimator: Literal["grpo", "rloo"] = "grpo"
    """Baseline of a trace's reward: its group's mean (GRPO), or that of its group's others (RLOO).
    Traces whose scoring failed are in none."""
    norm_adv_by_std_in_grpo: bool = True
    """Divide by the group's standard deviation; false: Dr.GRPO. RLOO never does."""
    adv_epsilon: float = Field(default=1e-6, ge=0)
    """Added to a group's standard deviation."""
    loss_mode: Literal["vanilla", "gspo", "cispo"] = "vanilla"
    """The policy loss: clipped surrogate with dual clip, GSPO's ratio of whole responses, or
    CISPO's clipped weight without a gradient."""
    clip_ratio_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio of a token with negative advantage counts down to 1 - this. GSPO's paper: 3e-4;
    CISPO clips whatever the advantage, its paper not at all below (1)."""
    clip_ratio_high: float = Field(default=0.28, gt=0)
    """The ratio of a token with positive advantage counts up to 1 + this (clip-higher). GSPO's
    paper: 4e-4."""
    clip_ratio_c: float = Field(default=3.0, gt=1)
    """Dual clip: a token with negative advantage A loses at most -c A. Vanilla only."""
    loss_agg_mode: Literal[
        "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = "token-mean"
    """How tokens become one loss: their mean over the update; the mean over responses of a
    response's sum, mean, or sum / rollout.max_response_length (Dr.GRPO)."""
    old_logprobs: Literal["trainer", "engine"] = "trainer"
    """Whose logprobs the ratio is taken to: the trainer's own before the step's first update, or
    those of the engine that wrote the trace (verl: bypass_mode), which spares a pass where a step
    has several updates; there is then nothing left to correct."""
    rollout_is: Literal["token", "sequence", "none"] = "token"
    """Importance weights between rollout engine and trainer: of each token, of whole responses, or
    none. The raw ratios are logged whatever this says."""
    rollout_is_threshold: float | tuple[float, float] = 2.0
    """A number: weights are cut off there (truncated importance sampling). A pair such as
    `[0.5, 5.0]`: weights outside count 0 (IcePop)."""
    kl_loss_coef: float = Field(default=0.0, ge=0)
    """KL to the model that the stage started from, added to the loss. 0: not computed."""
    kl_loss_type: Literal["k1", "k2", "k3"] = "k3"
    """Its estimator. The gradient of k1 is 0 in the mean: it bounds nothing in a loss."""
    kl_coef: float = Field(default=0.0, ge=0)
    """The same KL, summed over a trace and taken off its reward before the advantages."""
    kl_penalty: Literal["k1", "k2", "k3"] = "k1"
    """Its estimator."""
    entropy_coeff: float = Field(default=0.0, ge=0)
    """Bonus for the entropy of the next-token distributions; its gradient takes another pass over
    the vocabulary."""
    mask_truncated: bool = False
    """Traces cut at rollout.max_response_length do not train; their rewards enter the baseline."""

    @property
    def needs_reference(self) -> bool:
        """Whether the logprobs of the model that the stage started from are asked for."""
        return self.kl_loss_coef > 0 or self.kl_coef > 0

    @field_validator("rollout_is_threshold")
    @classmethod
    def _is_band(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        low, high = value if isinstance(value, tuple) else (0.0, value)
        if not 0 <= low < high < math.inf:
            raise ValueError(
                f"rollout_is_threshold={value} must be a number above 0, where weights are cut "
                "off, or a pair [low, high] of such numbers outside which they count 0"
            )
        return value

    @model_validator(mode="after")
    def _engine_needs_no_correction(self) -> "GrpoLossConfig":
        if self.old_logprobs == "engine" and self.rollout_is != "none":
            raise ValueError(
                "old_logprobs='engine' takes the ratio to the engine's logprobs, so that "
                f"rollout_is={self.rollout_is!r} would correct nothing; set rollout_is = 'none', "
                "or old_logprobs = 'trainer'"
            )
        return self

    @model_validator(mode="after")
    def _gspo_weighs_responses(self) -> "GrpoLossConfig":
        if self.loss_mode == "gspo" and self.rollout_is == "token":
            raise ValueError(
                "loss_mode='gspo' takes one ratio for a whole response, which rollout_is='token' "
                "would take apart again; set rollout_is = 'sequence' or 'none'"
            )
        return self


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
