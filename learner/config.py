"""Settings of training: optimiser, engine, GRPO's loss."""

import math
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

    @property
    def follows_length(self) -> bool:
        """Whether the learning rate of an update depends on the number of all updates."""
        return self.decay != "constant" or self.warmup_frac > 0

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
    max_restarts: int = Field(default=5, ge=0)
    """Times in a run that all ranks start anew from the last checkpoint because one died or did not
    answer; then, and with 0 at once, such a rank ends the run."""
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
    offload_while_generating: bool = False
    """Keep the optimiser's moments (two of its three numbers per weight) in the node's memory while
    engines write; the GPU still computes the update. For GPUs that engines and ranks share."""
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
    """Embeddings on a node may take this; of more a fixed random subset is kept. Less where the
    disk is nearly full."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    preflight: bool = True
    """Before a stage's first update, see whether its largest batch fits into memory, and end the
    run with the settings to lower if it does not."""
    lora: LoraConfig | None = None
    """Train additions of low rank instead of the weights; none: full training."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """A step, a save, a load or a block of rows to be scored that takes longer has failed."""

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

    def refuse_adapted_tower(self, lora: LoraConfig | None, name: str) -> None:
        """Raise ValueError if engines could not serve this LoRA, the setting ``name``, as an
        adapter."""
        if lora is not None and lora.handoff == "adapter" and not self.vision_frozen:
            raise ValueError(
                f"{name} with freeze_vision_tower or freeze_merger = false adapts what vLLM makes "
                f"of a clip, which its caches do not follow as an adapter; set {name}.handoff = "
                "'merged', or freeze both"
            )

    @model_validator(mode="after")
    def _adapted_tower_is_merged(self) -> "LearnerConfig":
        self.refuse_adapted_tower(self.lora, "lora")
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
        if self.offload_while_generating and self.offload != "none":
            raise ValueError(
                f"offload={self.offload!r} keeps the optimiser in the node's memory at all times, "
                "so offload_while_generating=true has nothing to move; leave one of them out"
            )
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
    """Bonus for the entropy of the next-token distributions, in the loss."""
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


class _Bucketed(Config):
    bucket_mb: float = Field(default=256.0, gt=0)
    """ZeRO-3 shards are gathered in pieces of about this size; ``object_store`` also sends these,
    from two such pieces of shared memory, or from where the weights live (docs/cluster.md)."""

    @property
    def bucket_bytes(self) -> int:
        """The size of a piece."""
        return int(self.bucket_mb * 2**20)


class ObjectStoreConfig(_Bucketed):
    """Checked buckets through shared memory, between nodes through Ray's object store: any
    machine, no NCCL."""

    kind: Literal["object_store"] = "object_store"

    @property
    def backend(self) -> str:
        """Name of the transfer in vLLM's registry."""
        return "object_store"


class NcclConfig(_Bucketed):
    """vLLM's NCCL backend: learner and engines on GPUs of their own. A group that loses an engine
    is formed anew with those that are left."""

    kind: Literal["nccl"]
    port: int | None = Field(default=None, ge=1, le=65_535)
    """Has no effect and will go: the system chooses the port. Recipes of older versions set it."""

    @property
    def backend(self) -> str:
        """Name of the transfer in vLLM's registry."""
        return "nccl_group"


class IpcConfig(_Bucketed):
    """vLLM's CUDA IPC backend: engine i and learner rank i share a GPU."""

    kind: Literal["ipc"]

    @property
    def backend(self) -> str:
        """Name of the transfer in vLLM's registry."""
        return "ipc_bytes"


TransferConfig = Annotated[ObjectStoreConfig | NcclConfig | IpcConfig, Field(discriminator="kind")]


class ParityConfig(Config):
    """The check after every weight update that engine and learner compute the same logprobs."""

    tolerance: float = Field(default=0.5, gt=0)
    """Largest |engine - learner| / max(1, |learner|) of a probe token's logprob. With float32 on
    both sides 1e-4 holds whatever this says: the policy's own noise came to 1e-5 within 20
    steps of one demo run, and the smallest fault tried gave 2e-2. bfloat16: up to 0.25."""
    noise_factor: float = Field(default=8.0, gt=0)
    """In bfloat16: largest difference of engine and learner over the probe's tokens (root mean
    square), in multiples of what either differs by from itself with other tokens beside them."""

    def limit(self, rollout_dtype: str, learner_dtype: str) -> float:
        """The limit that holds for these precisions."""
        return 1e-4 if rollout_dtype == learner_dtype == "float32" else self.tolerance

    def noise_limit(self, rollout_dtype: str, learner_dtype: str) -> float | None:
        """The limit in multiples of the noise; None with these precisions."""
        return None if rollout_dtype == learner_dtype == "float32" else self.noise_factor
