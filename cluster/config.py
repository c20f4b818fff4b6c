"""The recipe: every setting of a run, one section per package, rules across sections here."""

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from calibrate.config import CalibrateConfig
from cluster.logging_config import LoggingConfig
from cluster.migration import hint
from learner.config import (
    GrpoLossConfig,
    LearnerConfig,
    ObjectStoreConfig,
    OptimConfig,
    ParityConfig,
    TransferConfig,
)
from reward.config import RewardConfig
from rollout.config import RolloutConfig
from video.config import VideoConfig
from wire.config import Config, load_recipe
from wire.labels import Label, LabelSet
from wire.types import Split

STAGES = ("base", "coldstart", "grpo", "calibrated")
"""All stages that a run may have, in their order."""


class DataConfig(Config):
    """Where the labelled clips are."""

    manifest: Path
    """JSONL or Parquet with the columns id, video, label, split (and trace, text, start_s, end_s,
    any others)."""
    media_root: Path | None = None
    """Relative video paths start here; none: at the manifest's folder."""
    use_side_text: bool = False
    """Show a sample's ``text`` in prompts. Off: side text often gives the label away."""
    check_clips: bool = True
    """Open every clip before an engine starts. Those that cannot be read are left out, and listed
    in ``quarantine.jsonl``."""
    max_quarantine_frac: float = Field(default=0.1, ge=0, le=1)
    """Share of the clips that may be left out before the run ends with TooManyFailures."""


class TrainedConfig(Config):
    """A training with an optimiser of its own."""

    @field_validator("optim", mode="before", check_fields=False)
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """A stage's own defaults stay where a recipe sets only some keys of its optimiser."""
        default = cls.model_fields["optim"].default.model_dump()
        return {**default, **values} if isinstance(values, dict) else values


class ColdstartConfig(TrainedConfig):
    """Stage 1: supervised fine-tuning on the train samples that have a trace."""

    epochs: int = Field(default=5, ge=0)
    """Passes over the traces; 0 leaves the stage out: GRPO starts from the base model."""
    batch_size: int = Field(default=64, ge=1)
    """Traces per update, over all ranks."""
    save_every: int | None = Field(default=None, ge=1)
    """Updates between checkpoints; none: one after each epoch."""
    optim: OptimConfig = OptimConfig(learning_rate=2e-5, decay="linear")
    """DeepIntuit: 2e-5, linear decay."""


class FilterGroupsConfig(Config):
    """Dynamic sampling (DAPO): a group whose rewards are all equal teaches nothing, and another
    clip is asked in its stead."""

    enable: bool = False
    """Whether to."""
    max_num_gen_batches: int = Field(default=10, ge=1)
    """A step asks at most this times ``groups_per_step`` clips, and then trains on the groups with
    signal that it has."""


class GrpoConfig(TrainedConfig):
    """Stage 2: GRPO on the train samples."""

    num_steps: int = Field(default=240, ge=1)
    """Training steps; each consumes ``groups_per_step`` groups."""
    groups_per_step: int = Field(default=64, ge=1)
    """Clips per step (verl: train_batch_size)."""
    groups_per_update: int | None = Field(default=None, ge=1)
    """Clips per optimizer update (verl: ppo_mini_batch_size); none: one update per step."""
    ppo_epochs: int = Field(default=1, ge=1)
    """Passes of a step over its groups, of ``groups_per_update`` each."""
    filter_groups: FilterGroupsConfig = FilterGroupsConfig()
    """Dynamic sampling."""
    class_balanced: bool = False
    """Ask every label equally often, however many train clips it has."""
    max_staleness: int = Field(default=0, ge=0)
    """Versions that a trace may lag behind the weights it trains; 0: synchronous, on-policy."""
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints kept, the newest ones (verl: max_actor_ckpt_to_keep)."""
    keep_best: int = Field(default=1, ge=0)
    """Checkpoints kept beside them, those with the highest mean reward of the steps since the
    checkpoint before. They also stay when the stage has ended with other weights."""
    optim: OptimConfig = OptimConfig(learning_rate=1e-6, warmup_steps=10)
    """DeepIntuit: 1e-6, 10 steps of warm-up, weight decay 0.1, gradient norm 1."""
    loss: GrpoLossConfig = GrpoLossConfig()
    """What is optimised."""

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates made with the groups of one step."""
        return self.ppo_epochs * self.updates_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Those of one pass over the groups."""
        return self.groups_per_step // (self.groups_per_update or self.groups_per_step)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        update = self.groups_per_update
        if update is not None and self.groups_per_step % update:
            raise ValueError(
                f"groups_per_step={self.groups_per_step} is no multiple of "
                f"groups_per_update={update}; change one of them"
            )
        return self


class EvaluateConfig(Config):
    """How each stage is measured."""

    split: Split = Split.TEST
    """The clips measured on."""
    temperature: float = Field(default=0.01, gt=0)
    """One trace per clip at this temperature (DeepIntuit: 0.01)."""


ArmName = Literal[
    "coldstart_val",
    "rejection",
    "coldstart_2x",
    "policy_probability",
    "vote",
    "trace_accuracy",
    "blank",
    "shuffled",
    "verdict_teacher",
    "verdict_train",
    "video_only_1x",
    "video_only_3x",
    "video_only_10x",
    "verdict_blank",
    "verdict_shuffled",
    "grpo_more",
]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
"""Control arms in the order in which they run: engines change their weights least so."""


class RejectionConfig(TrainedConfig):
    """Fine-tuning on the cold start's own traces that earned the full reward."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the traces kept."""
    batch_size: int = Field(default=64, ge=1)
    """Traces per update, over all ranks."""
    optim: OptimConfig = OptimConfig(learning_rate=2e-5, decay="linear")
    """As the cold start's."""


class ControlsConfig(Config):
    """Control arms: measurements beside the stages, by ``deepintuit controls``."""

    arms: tuple[ArmName, ...] = ARMS
    """Those to run; none of them changes what the stages left."""
    num_votes: int = Field(default=8, ge=1)
    """Traces per clip of the majority vote, at ``rollout.temperature``."""
    rejection: RejectionConfig = RejectionConfig()
    """Rejection sampling; it writes as many traces as GRPO."""


class ClusterConfig(Config):
    """Where the workers run."""

    address: str | None = None
    """Ray's address; none: the cluster this process belongs to, or else a local Ray of its own."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """Workers that are not up by then have failed."""
    object_store_mb: float = Field(default=512.0, ge=100)
    """Object store of a local Ray."""


class RunConfig(Config):
    """A whole run."""

    model: Path
    """The base model (Qwen2-VL, Qwen2.5-VL or Qwen3-VL): a directory in Hugging Face format, or a
    model of the Hugging Face hub such as ``Qwen/Qwen2.5-VL-7B-Instruct``."""
    labels: tuple[Label, ...] = Field(min_length=2)
    """The classes, with definitions for the prompt."""
    data: DataConfig
    seed: int = Field(default=0, ge=0)
    """Same seed, same questions in the same order."""
    deterministic: bool = False
    """Every bit of the training a function of the recipe: a run that was killed and resumed on as
    many ranks ends with the weights of one that was not (float32, CPU). Slower: docs/resume.md."""
    video: VideoConfig = VideoConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    transfer: TransferConfig = ObjectStoreConfig()
    """How weights travel from the learner to the engines."""
    parity: ParityConfig = ParityConfig()
    coldstart: ColdstartConfig = ColdstartConfig()
    grpo: GrpoConfig = GrpoConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    controls: ControlsConfig = ControlsConfig()
    cluster: ClusterConfig = ClusterConfig()
    logging: LoggingConfig = LoggingConfig()
    """metrics.jsonl and TensorBoard are always written."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Those of a whole run, in their order."""
        without = () if self.coldstart.epochs else ("coldstart",)
        return tuple(stage for stage in STAGES if stage not in without)

    @property
    def adapters_per_engine(self) -> int:
        """Versions of a LoRA policy that an engine computes with at the same time: those that
        staleness allows, and one more while the next is proven."""
        return self.grpo.max_staleness + 2

    @property
    def label_set(self) -> LabelSet:
        """The labels as a set."""
        return LabelSet(labels=self.labels)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        _ = self.label_set
        return self

    @model_validator(mode="after")
    def _rates_train(self) -> Self:
        learner = self.learner
        parts = (
            ("merger", "merger", learner.merger_frozen),
            ("vision", "vision_tower", learner.freeze_vision_tower),
        )
        optims = {
            "coldstart": self.coldstart.optim,
            "grpo": self.grpo.optim,
            "controls.rejection": self.controls.rejection.optim,
        }
        for stage, optim in optims.items():
            for key, part, frozen in parts:
                rate = getattr(optim, f"{key}_learning_rate")
                if frozen and rate is not None:
                    raise ValueError(
                        f"{stage}.optim.{key}_learning_rate={rate:g} is for a part that does not "
                        f"train; set learner.freeze_{part}=false, or leave the rate out"
                    )
        return self

    @model_validator(mode="after")
    def _transfer_fits(self) -> Self:
        on_gpu = self.rollout.num_gpus > 0 and self.learner.num_gpus > 0
        if self.transfer.kind != "object_store" and not on_gpu:
            raise ValueError(
                f"transfer.kind={self.transfer.kind!r} needs GPUs, but rollout.num_gpus="
                f"{self.rollout.num_gpus} and learner.num_gpus={self.learner.num_gpus}; "
                "use kind = 'object_store', or give both GPUs"
            )
        return self

    @model_validator(mode="after")
    def _gpus_fit(self) -> Self:
        wanted, given = self.rollout.tensor_parallel_size, self.rollout.num_gpus
        if wanted > 1 and given < wanted:
            raise ValueError(
                f"rollout.tensor_parallel_size={wanted} needs rollout.num_gpus={wanted}, got "
                f"{given:g}"
            )
        return self


_PATH_KEYS = ("model", "data.manifest", "data.media_root", "video.cache_dir")
_HUB_KEYS = ("model",)


def read_recipe(path: Path, overrides: list[str]) -> RunConfig:
    """A recipe with its paths made absolute: they are relative to the folder of their own file.

    ``$NAME`` in a path is taken from the environment. A ``model`` of the Hugging Face hub stays the
    name it is (cluster/model_source.py finds it). Raises ConfigError.
    """
    return load_recipe(RunConfig, path, overrides, _PATH_KEYS, hint, hub_keys=_HUB_KEYS)
