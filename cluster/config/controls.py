"""Control arms: stages off the main line, declared like those of the chain.

    recipe -> control_arms -> name -> ControlArm(stage, after)

What each kind of arm does is in cluster/controls/.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from calibrate.config import CalibrateConfig
from cluster.config.arm_names import ARMS, ArmName
from cluster.config.chain import BASE, Chain
from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.stages import ColdstartConfig, GrpoConfig, TrainedConfig
from cluster.config.validation import ValidateConfig
from learner.config import OptimConfig
from video.address import View
from wire.config import Config, validate
from wire.errors import DataError, UserError
from wire.types import Sample, Split

if TYPE_CHECKING:
    from cluster.config.recipe import RunConfig


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


class ProbabilityStage(Stage):
    """The policy's written answers, with its probability of each label."""

    command: ClassVar[str] = "controls"
    section: ClassVar[str] = ""
    kind: Literal["policy_probability"] = "policy_probability"

    @property
    def loads_engines(self) -> bool:
        """The learner scores traces that are in the archive."""
        return False


class VoteStage(Stage):
    """The most frequent answer of several traces."""

    command: ClassVar[str] = "controls"
    section: ClassVar[str] = ""
    kind: Literal["vote"] = "vote"
    num_votes: int


class TraceAccuracyStage(Stage):
    """How right the policy's sampled traces are, by split."""

    command: ClassVar[str] = "controls"
    section: ClassVar[str] = ""
    kind: Literal["trace_accuracy"] = "trace_accuracy"
    calibrated_on: Split

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """Clips of val and of the calibration."""
        for split in (Split.VAL, self.calibrated_on):
            yield from faults_of(ClipSelection(splits=(split,)), samples)


class VerdictStage(Stage):
    """A verdict trained on other traces than the policy's own ones of new clips, or on none."""

    command: ClassVar[str] = "controls"
    section: ClassVar[str] = ""
    kind: Literal["verdict"] = "verdict"
    traces: Literal["teacher", "train", "none"]
    """``train``: the policy's own, of clips that GRPO trained on; ``none``: the video alone."""
    times: int = 1
    """Epochs, as a multiple of the calibration's."""
    calibrated_on: Split

    @property
    def loads_engines(self) -> bool:
        """Only ``train`` writes traces."""
        return self.traces == "train"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        """The calibration's clips, with the teacher's traces where it learns from them."""
        clips = ClipSelection(splits=(self.calibrated_on,))
        faults = list(faults_of(clips, samples))
        yield from faults
        if self.traces == "teacher" and not faults:
            bare = [sample.id for sample in clips.of(samples) if not sample.trace]
            if bare:
                yield DataError(
                    f"it learns from the teacher's traces of the calibration clips, but "
                    f"{len(bare)} of {len(clips.of(samples))} samples with {clips} have none, such "
                    f"as {bare[0]!r}; add them to the manifest's 'trace' column"
                )


class VerdictOnViewStage(Stage):
    """The calibrated verdict, where clips are shown otherwise."""

    command: ClassVar[str] = "controls"
    section: ClassVar[str] = ""
    kind: Literal["verdict_on_view"] = "verdict_on_view"
    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlArm:
    """A stage off the main line.

    Example:
        ControlArm(stage=VoteStage(name="vote", from_="grpo", num_votes=8), after="grpo",
                   beside="grpo")
    """

    stage: Stage
    after: str
    """The last stage of the main line that must have finished."""
    beside: str
    """The stage that tables show it behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainStages:
    """Names of the stages of a chain that control arms stand beside."""

    coldstart: str
    grpo: str
    calibrated: str


def main_stages(chain: Chain) -> MainStages:
    """The first supervised stage, the last calibration and its GRPO of a chain; that is the one it
    starts from, or else the last. Where it has none, the name that DeepIntuit's chain gives it."""
    names = {kind: [stage.name for stage in chain if stage.kind == kind] for kind in _MAIN_KINDS}
    calibrated = next(reversed(names["calibrate"]), "calibrated")
    refined = chain.parent(calibrated) if calibrated in chain else BASE
    return MainStages(
        coldstart=next(iter(names["sft"]), "coldstart"),
        grpo=refined if refined in names["grpo"] else next(reversed(names["grpo"]), "grpo"),
        calibrated=calibrated,
    )


_MAIN_KINDS = ("sft", "grpo", "calibrate")


def control_arms(config: "RunConfig") -> dict[ArmName, ControlArm]:
    """Every control arm of a recipe, in the order of the tables."""
    main = main_stages(config.chain)
    return {
        **_policy_arms(config, main),
        **_verdict_arms(config, main),
        **_coldstart_arms(config, main),
    }


def calibration_of(config: "RunConfig") -> CalibrateConfig:
    """Settings of the calibration that arms stand beside."""
    name = main_stages(config.chain).calibrated
    stage = config.chain.get(name, config.calibrate)
    assert isinstance(stage, CalibrateConfig)
    return stage


def grpo_of(config: "RunConfig") -> GrpoConfig:
    """Settings of the GRPO that arms stand beside."""
    name = main_stages(config.chain).grpo
    stage = config.chain.get(name, config.grpo)
    assert isinstance(stage, GrpoConfig)
    return stage


def own_step(config: "RunConfig", arm: ArmName) -> int:
    """First version step of the weights that an arm makes: a range per arm, as long as the chain's
    and behind it. A stage's weights keep their step when an arm loads them."""
    return (1 + ARMS.index(arm)) * (config.chain.last_version_step + 1)


_NOT_VALIDATED = {"validation": ValidateConfig()}
"""Settings of an arm that trains: to its end, however the stage beside it is validated."""


def _policy_arms(config: "RunConfig", main: MainStages) -> dict[ArmName, ControlArm]:
    calibrated_on = Split(calibration_of(config).split)
    grpo = grpo_of(config)
    settings = {name: getattr(grpo, name) for name in GrpoConfig.model_fields} | _NOT_VALIDATED
    rejection = SftStage(
        **dict(config.controls.rejection),
        name="rejection",
        from_=main.coldstart,
        data="own",
        num_groups=grpo.num_steps * grpo.groups_per_step,
        class_balanced=grpo.class_balanced,
        title="supervised on the cold start's own right traces, as many rollouts as GRPO",
    )
    grpo_more = GrpoStage(
        **settings,
        name="grpo_more",
        from_=main.grpo,
        clips=ClipSelection(splits=(Split.TRAIN, calibrated_on)),
        title="GRPO with the calibration clips too, and as many steps again",
    )
    probability = ProbabilityStage(
        name="policy_probability",
        from_=main.grpo,
        title="GRPO's answer, with the policy's probability of each label",
    )
    vote = VoteStage(
        name="vote",
        from_=main.grpo,
        num_votes=config.controls.num_votes,
        title="most frequent answer of several traces of the GRPO policy",
    )
    return {
        "rejection": ControlArm(stage=rejection, after=main.coldstart, beside=main.coldstart),
        "grpo_more": ControlArm(stage=grpo_more, after=main.grpo, beside=main.grpo),
        "policy_probability": ControlArm(stage=probability, after=main.grpo, beside=main.grpo),
        "vote": ControlArm(stage=vote, after=main.grpo, beside=main.grpo),
    }


def _verdict_arms(config: "RunConfig", main: MainStages) -> dict[ArmName, ControlArm]:
    calibrated_on = Split(calibration_of(config).split)

    def arm(stage: Stage, after: str = main.grpo) -> ControlArm:
        return ControlArm(stage=stage, after=after, beside=main.calibrated)

    def trained(
        name: ArmName, traces: Literal["teacher", "train", "none"], title: str, times: int = 1
    ) -> ControlArm:
        return arm(
            VerdictStage(
                name=name,
                from_=main.grpo,
                traces=traces,
                times=times,
                calibrated_on=calibrated_on,
                title=title,
            )
        )

    def shown(name: ArmName, view: View, title: str) -> ControlArm:
        return arm(_measured(config, name, main.grpo, title, view=view))

    def judged(name: ArmName, view: View, title: str) -> ControlArm:
        stage = VerdictOnViewStage(name=name, from_=main.grpo, view=view, title=title)
        return arm(stage, after=main.calibrated)

    accuracy = TraceAccuracyStage(
        name="trace_accuracy",
        from_=main.grpo,
        calibrated_on=calibrated_on,
        title="sampled traces of the GRPO policy by split",
    )
    again, other = "the verdict, trace and verdict on", "frames in another order"
    return {
        "verdict_teacher": trained(
            "verdict_teacher", "teacher", "a verdict trained on the teacher's traces"
        ),
        "verdict_train": trained(
            "verdict_train", "train", "a verdict trained on traces of clips that GRPO trained on"
        ),
        "video_only_1x": trained("video_only_1x", "none", "the verdict without a trace"),
        "video_only_3x": trained("video_only_3x", "none", "the same, three times the updates", 3),
        "video_only_10x": trained("video_only_10x", "none", "the same, ten times the updates", 10),
        "blank": shown("blank", View.BLANK, "GRPO, shown a blank clip"),
        "shuffled": shown("shuffled", View.SHUFFLED, f"GRPO, shown the {other}"),
        "verdict_blank": judged("verdict_blank", View.BLANK, f"{again} a blank clip"),
        "verdict_shuffled": judged("verdict_shuffled", View.SHUFFLED, f"{again} {other}"),
        "trace_accuracy": arm(accuracy),
    }


def _coldstart_arms(config: "RunConfig", main: MainStages) -> dict[ArmName, ControlArm]:
    first = config.chain.get(main.coldstart, config.coldstart)
    assert isinstance(first, ColdstartConfig)
    settings = {n: getattr(first, n) for n in ColdstartConfig.model_fields} | _NOT_VALIDATED
    longer = SftStage(
        **settings | {"epochs": 2 * max(1, first.epochs)},
        name="coldstart_2x",
        from_=BASE,
        split=Split.VAL,
        title="a cold start of twice the epochs, on val",
    )
    measured = _measured(
        config, "coldstart_val", main.coldstart, "the cold start, on val", split=Split.VAL
    )
    after, beside = main.coldstart, main.calibrated
    return {
        "coldstart_val": ControlArm(stage=measured, after=after, beside=beside),
        "coldstart_2x": ControlArm(stage=longer, after=after, beside=beside),
    }


def _measured(
    config: "RunConfig", name: ArmName, start: str, title: str, **changes: Any
) -> EvaluateStage:
    """A policy measured as the stages are, but for ``changes``."""
    settings = {**dict(config.evaluate), **changes}
    return EvaluateStage(**settings, name=name, from_=start, title=title)


def read_titles(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The same from a recipe's plain values, such as a run.json; where they cannot be read, of the
    default chain: for what only looks at a run."""
    from cluster.config.recipe import DataConfig, RunConfig

    try:
        return titles(validate(RunConfig, recipe, "run.json"))
    except UserError:
        data = DataConfig(manifest=Path())
        return titles(RunConfig.model_construct(model=Path(), labels=(), data=data))


def titles(config: "RunConfig") -> dict[str, str]:
    """Name -> title of everything that a run may measure, in the order of the tables: each stage,
    the head of a calibration, and the control arms beside it."""
    arms = control_arms(config)
    listed: dict[str, str] = {}
    for stage in config.chain:
        listed[stage.name] = stage.text
        if isinstance(stage, CalibrateStage):
            listed[stage.head_name] = "a linear head on the same traces"
            listed[stage.classifier_name] = "the published classifier, calibrated"
        listed |= {n: arm.stage.title for n, arm in arms.items() if arm.beside == stage.name}
    return listed | {n: arm.stage.title for n, arm in arms.items() if n not in listed}
