"""The recipe: every setting of a run, one section per package, rules across sections here."""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from cluster.config.chain import Chain, deepintuit_chain, read_stages
from cluster.config.controls import ControlsConfig
from cluster.config.fleet import (
    ClusterConfig,
    FleetHealthConfig,
    RolloutFailureConfig,
    WatchdogConfig,
    refuse_elastic_pairs,
)
from cluster.config.guards import GuardsConfig
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensSettings
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.logging import LoggingConfig
from cluster.config.migration.hint import hint
from cluster.config.stages import (
    CalibrationConfig,
    ColdstartConfig,
    EvaluateConfig,
    GrpoConfig,
    RationalesConfig,
)
from cluster.config.validation import ValidateConfig, refuse_unused, with_inherited
from learner.config import (
    LearnerConfig,
    ObjectStoreConfig,
    ParityConfig,
    TransferConfig,
)
from reward.config import RewardConfig
from rollout.config import RolloutConfig
from rollout.prompt import Prompts
from rollout.prompts_config import ONLY_IN, SIDE_FIELDS, TEXT_NAMES, PromptsConfig
from video.config import VideoConfig
from wire.config import Config, load_recipe, read_values
from wire.errors import ConfigError
from wire.labels import Label, LabelSet


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


class RunConfig(Config):
    """A whole run."""

    model: Path
    """The base model (Qwen2-VL, Qwen2.5-VL or Qwen3-VL): a directory in Hugging Face format, or a
    model of the Hugging Face hub such as ``Qwen/Qwen2.5-VL-7B-Instruct``."""
    labels: tuple[Label, ...] = Field(min_length=2)
    """The classes, with definitions for the prompt."""
    data: DataConfig
    prompts: PromptsConfig = PromptsConfig()
    seed: int = Field(default=0, ge=0)
    """Same seed, same questions in the same order."""
    deterministic: bool = False
    """Every bit of the training a function of the recipe: a run that was killed and resumed on as
    many ranks ends with the weights of one that was not (float32, CPU). Slower: docs/resume.md."""
    keep_final_checkpoints: bool = True
    """The last checkpoint of a finished stage stays, so that ``--resume`` with more steps goes on
    with its optimiser. False: only models stay, which take a fraction of the room."""
    video: VideoConfig = VideoConfig()
    rollout: RolloutConfig = RolloutConfig()
    fleet_health: FleetHealthConfig = FleetHealthConfig()
    rollout_failure: RolloutFailureConfig = RolloutFailureConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    transfer: TransferConfig = ObjectStoreConfig()
    """How weights travel from the learner to the engines."""
    parity: ParityConfig = ParityConfig()
    coldstart: ColdstartConfig = ColdstartConfig()
    rationales: RationalesConfig = RationalesConfig()
    grpo: GrpoConfig = GrpoConfig()
    calibrate: CalibrationConfig = CalibrationConfig()
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    evaluate: EvaluateConfig = EvaluateConfig()
    semantic_tokens: SemanticTokensSettings = SemanticTokensSettings()
    guards: GuardsConfig = GuardsConfig()
    """When a training that learns nothing ends."""
    stages: tuple[SerializeAsAny[Stage], ...] = ()
    """The chain of stages, in their order; not set: DeepIntuit's, which is base, coldstart, grpo,
    calibrated. What a stage does not set itself is taken from the section of its kind."""
    controls: ControlsConfig = ControlsConfig()
    cluster: ClusterConfig = ClusterConfig()
    logging: LoggingConfig = LoggingConfig()
    """metrics.jsonl and TensorBoard are always written."""

    @cached_property
    def chain(self) -> Chain:
        """The stages of a whole run, in their order, with what each starts from."""
        sections = self.evaluate, self.coldstart, self.grpo, self.calibrate
        return Chain(self.stages or deepintuit_chain(*sections))

    def stages_of(self, command: str) -> tuple[str, ...]:
        """Names of the stages that a command runs; of ``run``: all. Raises ConfigError if the chain
        has none for it."""
        names = self.chain.names if command == "run" else self.chain.of_command(command)
        if not names and command == "coldstart" and not self.stages:
            raise ConfigError("coldstart.epochs=0 leaves the cold start out; give it epochs to run")
        if not names:
            raise ConfigError(
                f"`{command}` has no stage to run among {', '.join(self.chain.names)}; add one to "
                "[[stages]], or use `run`"
            )
        return names

    @property
    def adapters_per_engine(self) -> int:
        """Versions of a LoRA policy that an engine computes with at the same time: those that
        staleness allows, and one more while the next is proven."""
        lags = [stage.max_staleness for stage in self.chain if isinstance(stage, GrpoStage)]
        return max(lags, default=0) + 2

    @property
    def colocated(self) -> bool:
        """Whether engine i and learner rank i share a GPU: their ``num_gpus`` add up to at most
        1."""
        engine, rank = self.rollout.num_gpus, self.learner.num_gpus
        return engine > 0 and rank > 0 and engine + rank <= 1 + 1e-9

    @property
    def training_seed(self) -> int | None:
        """Seed of the traces written for training; none: they are not seeded."""
        return self.seed if self.deterministic or self.rollout.seeded_sampling else None

    @property
    def label_set(self) -> LabelSet:
        """The labels as a set."""
        return LabelSet(labels=self.labels)

    @cached_property
    def prompt_set(self) -> Prompts:
        """The prompts of the task."""
        return Prompts(self.label_set, self.prompts, self.data.use_side_text)

    @model_validator(mode="before")
    @classmethod
    def _read_stages(cls, values: Any) -> Any:
        """Each table of ``[[stages]]`` as its kind. Raises ConfigError."""
        if isinstance(values, dict) and isinstance(values.get("stages"), dict):
            raise ConfigError(
                f"stages.{next(iter(values['stages']), '')}: there is no such entry in [[stages]]; "
                "add one with that name, or set the section of its kind, such as grpo.num_steps"
            )
        if not isinstance(values, dict):
            return values
        values = with_inherited(values)
        if not isinstance(values.get("stages"), list | tuple):
            return values
        return {**values, "stages": read_stages(values["stages"], values)}

    @model_validator(mode="after")
    def _chain_holds(self) -> Self:
        _ = self.chain
        return self

    @model_validator(mode="after")
    def _side_text_is_decided(self) -> Self:
        for name in self.prompt_set.user_texts:
            shown = [f for f in self.prompt_set.templates[name].fields if f in SIDE_FIELDS]
            if shown and "use_side_text" not in self.data.model_fields_set:
                raise ValueError(
                    f"prompts.{name} shows {{{shown[0]}}}; say whether it is to: "
                    "data.use_side_text = true shows it, false leaves it empty (side text often "
                    "gives the label away)"
                )
        return self

    @model_validator(mode="after")
    def _validation_has_use(self) -> Self:
        refuse_unused(self.validation, [stage.validated for stage in self.chain])
        return self

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
            **{
                f"stages.{s.name}": s.optim
                for s in self.stages
                if isinstance(s, SftStage | GrpoStage)
            },
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
    def _stage_adapters_fit(self) -> Self:
        for stage in self.chain:
            if isinstance(stage, CalibrateStage):
                self.learner.refuse_adapted_tower(stage.lora, f"{stage.name}.lora")
            if isinstance(stage, SftStage) and stage.lora and self.learner.lora:
                raise ValueError(
                    f"{stage.name}.lora beside learner.lora, whose rank the engines were started "
                    "for; leave one of them out"
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
        gpus = (
            f"rollout.num_gpus={self.rollout.num_gpus:g} and "
            f"learner.num_gpus={self.learner.num_gpus:g}"
        )
        if self.transfer.kind == "ipc" and not self.colocated:
            raise ValueError(
                f"transfer.kind='ipc' needs engine i and learner rank i on one GPU, but {gpus} "
                "give them GPUs of their own; use kind = 'nccl' or 'object_store', or let the two "
                "add up to at most 1"
            )
        if self.transfer.kind == "nccl" and self.colocated:
            raise ValueError(
                "transfer.kind='nccl' cannot send between processes on one GPU, but "
                f"{gpus} share one; use kind = 'ipc' or 'object_store'"
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
        if given > wanted:
            raise ValueError(
                f"rollout.num_gpus={given:g} gives each engine GPUs that it would leave idle: it "
                f"computes on rollout.tensor_parallel_size={wanted}; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        refuse_elastic_pairs(self.rollout, colocated=self.colocated)
        return self

    @model_validator(mode="after")
    def _embeddings_fit(self) -> Self:
        learner, dtypes = self.learner, {self.rollout.dtype, self.learner.dtype}
        reasons = {
            "the vision tower or the merger trains: freeze both": not learner.vision_frozen,
            "learner.embedding_cache = false": not learner.embedding_cache,
            f"rollout.dtype={self.rollout.dtype!r} and learner.dtype={learner.dtype!r} differ": len(
                dtypes
            )
            > 1,
            "deterministic = true, and which side makes an embedding is chance": self.deterministic,
        }
        if self.rollout.share_embeddings and (reason := next(filter(reasons.get, reasons), None)):
            raise ValueError(f"rollout.share_embeddings=true cannot be: {reason}; or leave it out")
        return self

    @model_validator(mode="after")
    def _rationales_fit(self) -> Self:
        longest, texts = self.rollout.max_response_length, self.prompt_set.templates
        for stage in self.chain:
            if isinstance(stage, RationalesStage) and (stage.max_length or 0) > longest:
                raise ValueError(
                    f"stages.{stage.name}.max_length={stage.max_length} is more than the engines "
                    f"write, rollout.max_response_length={longest}; lower the first or raise the "
                    "second"
                )
            if not isinstance(stage, RationalesStage | SftStage) or not stage.names_label:
                continue
            writes = isinstance(stage, RationalesStage)
            given, instead = ("true", "false") if writes else ("'keep'", "'remove'")
            for field, name in ONLY_IN.items():
                if field not in texts[name].fields:
                    raise ValueError(
                        f"stages.{stage.name}.hint={given} names the label in its prompt, but "
                        f"prompts.{name} has no {{{field}}}; put it there, or set hint={instead}"
                    )
        return self

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        learner = self.learner
        stage = next((s.name for s in self.chain if s.reads_features), None)
        if stage is not None and not (learner.vision_frozen and learner.embedding_cache):
            raise ValueError(
                f"stages.{stage} reads features of a tower that stays as it is; set "
                "learner.freeze_vision_tower, freeze_merger and embedding_cache to true, or leave "
                "the stage out"
            )
        return self

    @model_validator(mode="after")
    def _sleep_fits(self) -> Self:
        if not self.rollout.sleep:
            return self
        if self.rollout.num_gpus and not self.colocated:
            raise ValueError(
                f"rollout.sleep=true frees a GPU for a learner rank, but rollout.num_gpus="
                f"{self.rollout.num_gpus:g} and learner.num_gpus={self.learner.num_gpus:g} share "
                "none; leave sleep out, or give both 0.5"
            )
        for stage in self.chain:
            if isinstance(stage, GrpoStage) and stage.max_staleness:
                raise ValueError(
                    f"rollout.sleep=true, but {stage.name}.max_staleness={stage.max_staleness} "
                    "has engines write while the learner trains; set max_staleness=0, or leave "
                    "sleep out"
                )
        return self

    @model_validator(mode="after")
    def _pairs_match(self) -> Self:
        rollout, learner = self.rollout, self.learner
        if self.colocated and rollout.num_workers != learner.num_ranks:
            raise ValueError(
                f"rollout.num_gpus={rollout.num_gpus:g} and learner.num_gpus={learner.num_gpus:g} "
                "put one engine and one learner rank on each GPU, but there are rollout.num_workers"
                f"={rollout.num_workers} and learner.num_ranks={learner.num_ranks}; make the two "
                "numbers equal, or give both sections num_gpus = 1 for GPUs of their own"
            )
        shares = 0 < learner.num_gpus <= 0.5 and not self.colocated
        if shares and learner.num_ranks > 1:
            raise ValueError(
                f"learner.num_gpus={learner.num_gpus:g} would put two of {learner.num_ranks} ranks "
                "on one GPU, which NCCL refuses; set learner.num_gpus = 1, or rollout.num_gpus so "
                "that the two add up to at most 1 and each rank shares a GPU with an engine"
            )
        return self


_PATH_KEYS = (
    "model",
    "data.manifest",
    "data.media_root",
    "video.cache_dir",
    "semantic_tokens.tokenizer",
    "stages.tokenizer",
)
_TEXT_KEYS = (*(f"prompts.{name}" for name in TEXT_NAMES), "labels.definition")


def read_recipe(path: Path, overrides: list[str]) -> RunConfig:
    """A recipe with its paths made absolute: they are relative to the folder of their own file.

    ``$NAME`` in a path is taken from the environment. A ``model`` of the hub stays the name it is
    (cluster/inputs/model_folder.py finds it). Raises ConfigError.
    """
    return load_recipe(RunConfig, path, overrides, _PATH_KEYS, hint, ("model",), _TEXT_KEYS)


def read_recipe_values(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Values of a recipe, with all that it extends, absolute paths, texts. Raises ConfigError."""
    return read_values(path, overrides, _PATH_KEYS, ("model",), _TEXT_KEYS)
