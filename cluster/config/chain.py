"""The chain of stages: their order, what each one starts from, and the versions that it makes.

[[stages]] of a recipe, or else DeepIntuit's chain -> Chain -> run, plan, check, report, status
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from cluster.config.arm_names import ARMS
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.clip_input import ClipInputConfig
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import COLDSTART_TITLE, MANIFEST, SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.migration.hint import hint
from cluster.config.stage_kinds import STAGE_KINDS
from cluster.config.stages import (
    CalibrationConfig,
    ColdstartConfig,
    EvaluateConfig,
    GrpoConfig,
)
from cluster.config.validation import with_inherited
from rollout.prompt import PromptKind, RationalePrompt
from video.address import View
from wire.config import merge, validate
from wire.errors import ConfigError
from wire.nearest import nearest

BASE = "base"
"""What stages may start from without a stage of that name: the recipe's model."""
D = TypeVar("D")

_VALIDATED = 1_000_000_000
_PER_STAGE = 10_000_000

_RESERVED = ("head", "eval")
"""Names that a run directory and its metrics use for something else."""


def read_stages(values: Sequence[Any], sections: Mapping[str, Any]) -> list[Any]:
    """Stages of ``[[stages]]``, in their order; what is no table stays as it is."""
    stages: list[Any] = []
    for value in values:
        one = read_stage(value, sections, stages) if isinstance(value, dict) else value
        stages.append(one)
    return stages


def read_stage(
    values: Mapping[str, Any], sections: Mapping[str, Any], earlier: Sequence[Any] = ()
) -> Stage:
    """A stage of ``[[stages]]``. What it does not set is taken from the section of its kind, and
    from the stages before it.

    Raises ConfigError that names every mistake, a wrong kind with the nearest one.
    """
    name, kind = str(values.get("name", "?")), values.get("kind")
    if kind not in STAGE_KINDS:
        raise ConfigError(
            f"stages.{name}.kind = {kind!r}; {nearest(str(kind), sorted(STAGE_KINDS), 'kinds')}"
        )
    stage, sections = STAGE_KINDS[kind], with_inherited(dict(sections))
    section = sections.get(stage.section, {})
    settings = merge(section, dict(values)) if isinstance(section, dict) else dict(values)
    if kind == "sft" and settings.get("data") == "own" and settings.get("num_groups") is None:
        grpo = validate(GrpoConfig, sections.get("grpo", {}), "grpo")
        settings["num_groups"] = grpo.num_steps * grpo.groups_per_step
    if kind == "sft" and settings.get("data") == "rationales":
        _choose_rationales(settings, [s for s in earlier if isinstance(s, RationalesStage)])
    return validate(stage, settings, f"stages.{name}", hint)


def _choose_rationales(settings: dict[str, Any], earlier: Sequence[RationalesStage]) -> None:
    """Fill in which rationales a stage learns, and how many of each clip."""
    if settings.get("rationales") is None and earlier:
        settings["rationales"] = earlier[-1].name
    source = next((s for s in earlier if s.name == settings.get("rationales")), None)
    if settings.get("num_rationales") is None and source is not None:
        settings["num_rationales"] = source.num_rationales


class Chain:
    """The stages of a run in their order, what each starts from, and the versions it makes."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        """Raises ValueError if a name stands twice, a stage cannot start from what it names, or
        there is no tokenizer for its input."""
        self._stages: dict[str, Stage] = {}
        self._parents: dict[str, str] = {}
        self._tokenizers: dict[str, str] = {}
        self._steps: dict[str, tuple[int, int]] = {BASE: (0, 0)}
        self.last_version_step = 0
        """The highest version step of the chain."""
        for stage in stages:
            self._add(stage)

    def _add(self, stage: Stage) -> None:
        self._refuse_taken(stage)
        self._refuse_other_rationales(stage)
        parent = self._parent_of(stage)
        start, newest = self._steps[parent][1], self.last_version_step
        goes_on = stage.num_versions > 1 and 0 < start == newest
        first = start if goes_on or not stage.num_versions else newest + 1
        last = first + max(0, stage.num_versions - 1)
        if (tokenizer := self._tokenizer_of(stage)) is not None:
            self._tokenizers[stage.name] = tokenizer
        self._refuse_unread_texts(stage)
        if isinstance(stage, CalibrateStage) and parent in self._tokenizers:
            raise ValueError(
                f"stages.{stage.name} is a calibrate stage, which shows clips as videos, from "
                f'{parent}, whose input is "tokens"; start it from a stage with input = "video", '
                f"or measure {parent} with a stage of kind evaluate"
            )
        self._stages[stage.name], self._parents[stage.name] = stage, parent
        if stage.name != BASE:
            self._steps[stage.name] = (first, last)
        self.last_version_step = max(newest, last)

    def _refuse_taken(self, stage: Stage) -> None:
        """Raise ValueError if files of a run by the stage's names would be another's."""
        taken = dict.fromkeys(_RESERVED, "something else in a run")
        taken |= dict.fromkeys(ARMS, "a control arm")
        for other in self:
            taken[other.name] = "another stage"
            if isinstance(other, CalibrateStage):
                taken[other.head_name] = f"the head of {other.name}"
                taken[other.classifier_name] = f"the classifier of {other.name}"
        name = stage.name
        if stage.leaves_policy:
            taken[BASE] = "the recipe's model"
        if isinstance(stage, RationalesStage):
            taken[MANIFEST] = "the manifest's traces"
        if isinstance(stage, CalibrateStage):
            for what, also in zip(("head", "classifier"), stage.also_predicted, strict=True):
                if also in self:
                    name, taken[also] = also, f"the {what} of {stage.name}"
        if name in taken:
            raise ValueError(f"the stage name {name!r} is taken by {taken[name]}; choose another")

    def _refuse_other_rationales(self, stage: Stage) -> None:
        """Raise ValueError if a stage is to learn rationales that no stage before it writes."""
        if not isinstance(stage, SftStage) or stage.data != "rationales":
            return
        written = [s.name for s in self if isinstance(s, RationalesStage)]
        where = f"stages.{stage.name}"
        if stage.rationales is None:
            raise ValueError(
                f"{where} learns rationales, and no stage before it writes any; put one of kind "
                f"'rationales' before it, or set rationales = {MANIFEST!r}: the manifest's traces"
            )
        if stage.rationales not in (MANIFEST, *written):
            advice = nearest(stage.rationales, [*written, MANIFEST], "earlier rationales stages")
            raise ValueError(f"{where}.rationales = {stage.rationales!r}; {advice}")
        if stage.hint == "keep" and self.rationale_kind(stage) == "caption":
            raise ValueError(
                f"{where}.hint = 'keep', but {stage.rationales} writes captions, whose prompt has "
                "no hint; leave hint out"
            )

    def rationale_kind(self, stage: SftStage) -> PromptKind:
        """The kind of prompt under which a stage learns rationales."""
        if stage.as_trace:
            return "trace"
        source = self.get(stage.rationales or "", None)
        if isinstance(source, RationalesStage) and source.task == "caption":
            return "caption"
        return RationalePrompt(hint=stage.hint == "keep")

    def _parent_of(self, stage: Stage) -> str:
        leaving = [name for name, earlier in self._stages.items() if earlier.leaves_policy]
        if stage.from_ is None:
            return leaving[-1] if leaving else BASE
        if stage.from_ in (BASE, *leaving):
            return stage.from_
        if stage.from_ in self._stages:
            raise ValueError(
                f"stages.{stage.name}.from = {stage.from_!r}, which leaves no policy; name one of "
                f"{', '.join([BASE, *leaving])}"
            )
        advice = nearest(stage.from_, [BASE, *leaving], "earlier stages that leave a policy")
        raise ValueError(f"stages.{stage.name}.from = {stage.from_!r}; {advice}")

    def _tokenizer_of(self, stage: Stage) -> str | None:
        """The earlier stage whose tokenizer makes a stage's input; None: it sees videos."""
        if not isinstance(stage, ClipInputConfig) or stage.input == "video":
            return None
        earlier = [s.name for s in self if isinstance(s, SemanticTokensStage)]
        if not earlier:
            raise ValueError(
                f'stages.{stage.name}.input = "tokens", and no stage of kind "semantic_tokens" '
                "stands before it; add one"
            )
        if stage.tokens is None or stage.tokens in earlier:
            tokenizer = stage.tokens or earlier[-1]
            self._refuse_view_of_vectors(stage, tokenizer)
            return tokenizer
        advice = nearest(stage.tokens, earlier, "earlier stages of kind semantic_tokens")
        raise ValueError(f"stages.{stage.name}.tokens = {stage.tokens!r}; {advice}")

    def _refuse_view_of_vectors(self, stage: Stage, tokenizer: str) -> None:
        """Raise ValueError if a stage would change codes where none are shown."""
        made_by = self[tokenizer]
        if not isinstance(stage, EvaluateStage) or not isinstance(made_by, SemanticTokensStage):
            return
        if stage.view not in (None, View.BLANK) and made_by.shows_vectors:
            raise ValueError(
                f"stages.{stage.name}.view = {stage.view.value!r} changes codes, and {tokenizer} "
                "shows none (quantise = false); use view = 'blank', or measure it on a tokenizer "
                "that quantises"
            )

    def _refuse_unread_texts(self, stage: Stage) -> None:
        """Raise ValueError if a tokenizer is to read texts that no earlier stage writes."""
        if not isinstance(stage, SemanticTokensStage):
            return
        name, earlier = stage.texts_stage, [s.name for s in self if s.kind == "rationales"]
        if name is not None and name not in earlier:
            advice = (
                nearest(name, earlier, "earlier stages of kind rationales")
                if earlier
                else "no stage of kind rationales stands before it; add one"
            )
            raise ValueError(f"stages.{stage.name}.texts = {stage.texts!r}; {advice}")

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages.values())

    def __contains__(self, name: str) -> bool:
        return name in self._stages

    def __getitem__(self, name: str) -> Stage:
        return self._stages[name]

    def get(self, name: str, default: D) -> Stage | D:
        """The stage of a name; ``default`` if there is none."""
        return self._stages.get(name, default)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all stages, in their order."""
        return tuple(self._stages)

    def of_command(self, command: str) -> tuple[str, ...]:
        """The stages that a command for one kind runs."""
        return tuple(stage.name for stage in self if stage.command == command)

    def parent(self, name: str) -> str:
        """The stage whose policy a stage starts from, or ``BASE``."""
        return self._parents[name]

    def tokenizer(self, name: str) -> str | None:
        """The stage whose tokenizer makes a stage's input; None: it sees videos."""
        return self._tokenizers.get(name)

    def texts(self, name: str) -> str | None:
        """The stage whose rationales or captions a stage learns from; None: of no stage."""
        stage = self[name]
        if isinstance(stage, SftStage):
            return None if stage.rationales == MANIFEST else stage.rationales
        return stage.texts_stage if isinstance(stage, SemanticTokensStage) else None

    def candidates(self, name: str) -> tuple[str, ...]:
        """What a stage may start from, best first: the one that it names, or else the earlier
        stages that leave a policy, the last first, then ``BASE``."""
        if self[name].from_ is not None:
            return (self.parent(name),)
        before = self.names[: self.names.index(name)]
        return (*(one for one in reversed(before) if self[one].leaves_policy), BASE)

    def dependents(self, name: str) -> tuple[str, ...]:
        """The stages whose weights, input or rationales come from a stage, in their order."""
        changed = {name}
        for stage in self:
            texts = self.texts(stage.name)
            if changed & {self._parents[stage.name], self._tokenizers.get(stage.name), texts}:
                changed.add(stage.name)
        return tuple(stage.name for stage in self if stage.name in changed - {name})

    def first_step(self, name: str) -> int:
        """Version step of the first weights that a stage serves."""
        return self._steps[name][0]

    def validated_step(self, name: str, update: int) -> int:
        """Version step of the weights of a supervised stage after an update, which the engines get
        only to be validated: a range of its own, far behind the chain's and the control arms'."""
        return _VALIDATED + self.names.index(name) * _PER_STAGE + update

    def last_step(self, name: str) -> int:
        """Version step of the policy that a stage leaves; 0 for ``BASE``."""
        return self._steps[name][1]


def deepintuit_chain(
    evaluate: EvaluateConfig,
    coldstart: ColdstartConfig,
    grpo: GrpoConfig,
    calibrate: CalibrationConfig,
) -> tuple[Stage, ...]:
    """The chain of a recipe without ``[[stages]]``: DeepIntuit's three stages after the base.

    ``coldstart.epochs = 0`` leaves the cold start out.
    """
    base = EvaluateStage(**dict(evaluate), name=BASE, title="the model before any training")
    taught = (
        SftStage(**dict(coldstart), name="coldstart", title=COLDSTART_TITLE)
        if coldstart.epochs
        else None
    )
    refined = GrpoStage(**dict(grpo), name="grpo", title="stage 2: GRPO, the answer it writes")
    calibrated = CalibrateStage(
        **dict(calibrate), name="calibrated", title="stage 3: the verdict on one own trace"
    )
    return tuple(stage for stage in (base, taught, refined, calibrated) if stage)


def read_chain(recipe: Mapping[str, Any]) -> Chain:
    """The chain of a recipe's plain values, such as a run.json; where they cannot be read, the
    default one: for what only looks at a run."""
    try:
        recipe = with_inherited(dict(recipe))
        if stages := recipe.get("stages"):
            return Chain(read_stages(stages, recipe))
        return Chain(
            deepintuit_chain(
                validate(EvaluateConfig, recipe.get("evaluate", {}), "evaluate"),
                validate(ColdstartConfig, recipe.get("coldstart", {}), "coldstart"),
                validate(GrpoConfig, recipe.get("grpo", {}), "grpo"),
                validate(CalibrationConfig, recipe.get("calibrate", {}), "calibrate"),
            )
        )
    except (ConfigError, ValueError, AttributeError, TypeError):
        sections = EvaluateConfig(), ColdstartConfig(), GrpoConfig(), CalibrationConfig()
        return Chain(deepintuit_chain(*sections))
