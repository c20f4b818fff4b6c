"""Val clips that validations ask about, and what a recipe and its manifest lack for them.

samples of a split -> at most so many, each label with its share, the same ones every time
"""

from collections.abc import Iterator, Sequence

from cluster.config.clip_selection import ClipSelection
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.config.validation import PREFIX
from cluster.metrics.catalogue import METRICS, describe
from rollout.manifest import select
from rollout.sampler import epoch_order
from wire.errors import ConfigError, DataError, UserError
from wire.nearest import nearest
from wire.types import Sample, Split


def validation_clips(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """At most ``count`` of the samples, each label with its share: a function of samples and seed
    alone; fewer are the first of more."""
    of_label: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        of_label.setdefault(sample.label, []).append(sample)
    ranked = [
        ((place + 0.5) / len(clips), label, clips[index])
        for label, clips in of_label.items()
        for place, index in enumerate(epoch_order(len(clips), seed, 0, "validation", label))
    ]
    ranked.sort(key=lambda one: one[:2])
    return [sample for *_, sample in ranked[:count]]


def validation_faults(
    config: RunConfig, stage: Stage, samples: Sequence[Sample]
) -> Iterator[UserError]:
    """What makes the validation of a stage impossible, or its checkpoints unrankable."""
    if isinstance(stage, GrpoStage):
        yield from _keep_best_faults(config, stage)
    validation = stage.validated
    if not validation.is_on:
        return
    known = [*stage.validation_metrics, *_reward_metrics(config, stage)]
    if validation.metric not in known:
        advice = nearest(validation.metric, known, "metrics of its validation")
        yield ConfigError(f"{stage.name}: validate.metric = {validation.metric!r}; {advice}")
    clips = select(samples, validation.split)
    if not clips:
        there = {split: len(select(samples, split)) for split in Split}
        has = ", ".join(f"{count} {split.value}" for split, count in there.items() if count)
        yield DataError(
            f"{stage.name} is validated (validate.every = {validation.every}), and the manifest "
            f"has no samples with split={validation.split.value!r}, but {has or 'none at all'}; "
            f"give some rows split {validation.split.value!r}, or set validate.every = 0"
        )
        return
    overlap = list(_overlap(stage, clips))
    yield from overlap
    if isinstance(stage, CalibrateStage) and not overlap and validation.split is not Split.VAL:
        yield ConfigError(
            f"{stage.name}: validate.split = {validation.split.value!r}; a verdict is validated on "
            "'val', by the traces that it is calibrated with; give those clips split 'val', or set "
            "calibrate.validate.split = 'val'"
        )
        return
    if validation.metric == f"{PREFIX}nll" and isinstance(stage, SftStage):
        asked = validation_clips(clips, validation.num_clips, config.seed)
        if not stage.asks_labels and not any(sample.trace for sample in asked):
            yield DataError(
                f"{stage.name}: validate.metric = 'val/nll' is that of teacher's traces, and none "
                f"of {len(asked)} val clips has one; add them to the manifest's 'trace' column, or "
                "choose 'val/accuracy'"
            )


def _overlap(stage: Stage, clips: Sequence[Sample]) -> Iterator[UserError]:
    """The fault of a stage that learns from clips it is validated on."""
    assert isinstance(stage, SftStage | GrpoStage | CalibrateStage)
    learns_from: ClipSelection = stage.clips
    both = [sample.id for sample in clips if learns_from.fits(sample)]
    if both:
        yield DataError(
            f"{stage.name} learns from {len(both)} of the {len(clips)} clips that it is validated "
            f"on, such as {both[0]!r}; set validate.split to another split"
        )


def _keep_best_faults(config: RunConfig, stage: GrpoStage) -> Iterator[UserError]:
    """The fault of a metric to keep checkpoints by that nothing logs."""
    name, where = stage.keep_best_by, f"{stage.name}: keep_best_by = {stage.keep_best_by!r}"
    if not stage.keep_best:
        return
    if name.startswith(PREFIX):
        known = [*stage.validation_metrics, *_reward_metrics(config, stage)]
        if name not in known:
            yield ConfigError(f"{where}; {nearest(name, known, 'metrics of its validation')}")
        elif not stage.validation.is_on:
            yield ConfigError(f"{where}, but validate.every = 0; set it to a number of steps")
        return
    metric = describe(name)
    parts = {term.part for term in config.reward.terms}
    part = name.split("/")[1] if metric is not None and "<part>" in metric.name else None
    if metric is None or (part is not None and metric.area == "Reward" and part not in parts):
        known = [one for metric in METRICS for one in _names(metric.name, sorted(parts))]
        yield ConfigError(f"{where}; {nearest(name, known, 'metrics of a GRPO step')}")


def _names(name: str, parts: Sequence[str]) -> list[str]:
    """Names of a row of the catalogue that a recipe can be meant to name."""
    if name.startswith((PREFIX, "<stage>")):
        return []
    if "<part>" in name:
        return [name.replace("<part>", part) for part in parts]
    return [] if "<" in name else [name]


def _reward_metrics(config: RunConfig, stage: Stage) -> list[str]:
    if f"{PREFIX}reward/mean" not in stage.validation_metrics:
        return []
    return [f"{PREFIX}reward/{term.part}/mean" for term in config.reward.terms]
