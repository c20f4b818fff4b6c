"""What a run would do, without doing it: stages, workers, batches, memory, and what looks wrong.

    recipe (+ manifest and model, where they are here) -> make_plan -> Plan -> table, JSON

Nothing is started and no clip is opened, so a plan is no proof: `run` checks clips, prompts and the
tokenizer besides. Counts suppose that no clip fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from cluster.config import RunConfig
from cluster.data import Data, check_splits
from cluster.model_size import (
    KNOWN,
    EngineMemory,
    ModelShape,
    RankMemory,
    engine_memory,
    rank_memory,
    read_max_pixels,
    read_shape,
    video_tokens,
)
from reward.scorer import Scorer
from rollout.manifest import read_manifest, select
from video.positions import PositionRule
from wire.types import Split


@final  # without subclasses it is never false, and ``clips and clips.train`` has a type
@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCounts:
    """Clips of a manifest, by use."""

    train: int
    with_trace: int
    """Those of ``train`` that the cold start learns from."""
    calibration: int
    """Those of ``calibrate.split``."""
    evaluation: int
    """Those of ``evaluate.split``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Rollout workers or learner ranks, and what Ray reserves for each."""

    count: int
    cpus_each: float
    gpus_each: float
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage. None: unknown without the manifest.

    Example:
        StagePlan(name="grpo", clips=600, epochs=3.2, rollouts=15360, examples=15360, updates=60,
                  max_prompt_tokens=737280, max_response_tokens=614400)
    """

    name: str
    clips: int | None
    """Clips that it learns from."""
    epochs: float | None
    """Passes over them: over the train clips in GRPO, over the examples elsewhere."""
    rollouts: int | None
    """Traces that the engines write to learn from."""
    examples: int | None
    """Traces that the learner learns from, each counted once."""
    updates: int | None
    """Optimiser updates."""
    max_prompt_tokens: int | None
    """Upper bound of the prompts of its rollouts, each once for its whole group."""
    max_response_tokens: int | None
    """Upper bound of its rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What measures each stage at its end: one trace per clip."""

    clips: int
    max_prompt_tokens: int
    max_response_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step of GRPO."""

    groups: int
    rollouts: int
    updates: int
    longest_row_tokens: int
    """A prompt and all responses to it at full length: one row of the learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTokens:
    """The largest clip that sampling lets through, as the model sees it."""

    frames: int
    max_pixels: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is held all the time. Not included: activations, buffers, CUDA, Ray's object store."""

    parameters: int
    trained_parameters: int
    rank: RankMemory
    engine: EngineMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of a run."""

    model: str
    clips: ClipCounts | None
    """None: there is no manifest here."""
    rollout: Workers
    learner: Workers
    stages: tuple[StagePlan, ...]
    measurement: Measurement | None
    """None: there is no manifest here."""
    step: StepPlan
    clip_tokens: ClipTokens | None
    """None: neither model nor recipe says how large a frame may be."""
    memory: Memory | None
    """None: the model is not here, and its name is not known."""
    notes: tuple[str, ...]
    """What is not here, and so not counted."""
    warnings: tuple[str, ...]
    """What looks wrong and does not keep a run from starting."""


def make_plan(config: RunConfig, stages: Sequence[str]) -> Plan:
    """Plan the named stages.

    Raises UserError (ConfigError, DataError) as `run` does for what is here and wrong.
    """
    clips, notes = _clip_counts(config, stages)
    shape, more = _model_shape(config)
    tokens = _clip_tokens(config, shape)
    if shape and not tokens:
        more.append("video tokens are unknown: neither the recipe nor the model sets max_pixels")
    memory = _memory(config, shape) if shape else None
    rollout, learner = config.rollout, config.learner
    return Plan(
        model=str(config.model),
        clips=clips,
        rollout=_workers(rollout.num_workers, rollout.num_cpus, rollout.num_gpus),
        learner=_workers(learner.num_ranks, learner.num_cpus, learner.num_gpus),
        stages=tuple(_STAGE[name](config, clips) for name in stages),
        measurement=clips and _measurement(config, clips.evaluation),
        step=_step(config),
        clip_tokens=tokens,
        memory=memory,
        notes=(*notes, *more),
        warnings=tuple(_warnings(config, clips, tokens, memory)),
    )


def _clip_counts(config: RunConfig, stages: Sequence[str]) -> tuple[ClipCounts | None, list[str]]:
    limit = config.rollout.max_response_length
    Scorer(config.reward, config.label_set, max_response_length=limit)  # names what is missing
    manifest = config.data.manifest
    if not manifest.exists():
        return None, [f"there is no manifest {manifest}: counts that depend on it are unknown"]
    samples = read_manifest(manifest, config.label_set, config.data.media_root)
    check_splits(config, Data(samples=samples), stages)
    train = select(samples, Split.TRAIN)
    return ClipCounts(
        train=len(train),
        with_trace=sum(bool(sample.trace) for sample in train),
        calibration=len(select(samples, Split(config.calibrate.split))),
        evaluation=len(select(samples, config.evaluate.split)),
    ), []


def _model_shape(config: RunConfig) -> tuple[ModelShape | None, list[str]]:
    folder = config.model
    absent = f"the model is not here ({folder})"
    if folder.is_dir():
        PositionRule.load(folder)  # names a model of another kind, and a config that is none
        shape = read_shape(folder)
        lacking = f"memory is not estimated: {folder / 'config.json'} does not give all sizes"
        return shape, [] if shape else [lacking]
    if folder.name in KNOWN:
        return KNOWN[folder.name], [f"{absent}: sizes are those known of {folder.name}"]
    known = ", ".join(KNOWN)
    return None, [f"{absent}: video tokens and memory are not estimated (known by name: {known})"]


def _clip_tokens(config: RunConfig, shape: ModelShape | None) -> ClipTokens | None:
    video = config.video
    max_pixels = video.max_pixels or read_max_pixels(config.model)
    if shape is None or max_pixels is None:
        return None
    tokens = video_tokens(shape, video, max_pixels)
    return ClipTokens(frames=video.max_frames, max_pixels=max_pixels, tokens=tokens)


def _memory(config: RunConfig, shape: ModelShape) -> Memory:
    return Memory(
        parameters=shape.num_parameters,
        trained_parameters=shape.num_trained(config.learner.freeze_vision_tower),
        rank=rank_memory(shape, config.learner, config.grpo.optim),
        engine=engine_memory(shape, config.rollout),
    )


def _workers(count: int, cpus: float, gpus: float) -> Workers:
    return Workers(
        count=count, cpus_each=cpus, gpus_each=gpus, cpus=count * cpus, gpus=count * gpus
    )


def _step(config: RunConfig) -> StepPlan:
    grpo, rollout = config.grpo, config.rollout
    responses = rollout.group_size * rollout.max_response_length
    return StepPlan(
        groups=grpo.groups_per_step,
        rollouts=grpo.groups_per_step * rollout.group_size,
        updates=grpo.updates_per_step,
        longest_row_tokens=rollout.max_prompt_length + responses,
    )


def _measurement(config: RunConfig, clips: int) -> Measurement:
    return Measurement(
        clips=clips,
        max_prompt_tokens=clips * config.rollout.max_prompt_length,
        max_response_tokens=clips * config.rollout.max_response_length,
    )


def _base(config: RunConfig, clips: ClipCounts | None) -> StagePlan:
    """Only measured."""
    return _stage(config, "base", clips=0, epochs=0, examples=0, updates=0)


def _coldstart(config: RunConfig, clips: ClipCounts | None) -> StagePlan:
    coldstart = config.coldstart
    traces = clips and clips.with_trace
    updates = _updates(traces, coldstart.batch_size, coldstart.epochs)
    return _stage(
        config, "coldstart", clips=traces, epochs=coldstart.epochs, examples=traces, updates=updates
    )


def _grpo(config: RunConfig, clips: ClipCounts | None) -> StagePlan:
    grpo = config.grpo
    groups = grpo.num_steps * grpo.groups_per_step
    rollouts = groups * config.rollout.group_size
    return _stage(
        config,
        "grpo",
        clips=clips and clips.train,
        epochs=clips and groups / clips.train,
        groups=groups,
        rollouts=rollouts,
        examples=rollouts,
        updates=grpo.num_steps * grpo.updates_per_step,
    )


def _calibrated(config: RunConfig, clips: ClipCounts | None) -> StagePlan:
    calibrate = config.calibrate
    asked = clips and clips.calibration
    traces = None if asked is None else asked * calibrate.num_traces
    epochs = calibrate.epochs if "verdict" in calibrate.methods else 0
    return _stage(
        config,
        "calibrated",
        clips=asked,
        epochs=epochs,
        groups=asked,
        rollouts=traces,
        examples=traces,
        updates=_updates(traces, calibrate.batch_size, epochs),
    )


_STAGE: dict[str, Callable[[RunConfig, ClipCounts | None], StagePlan]] = {
    "base": _base,
    "coldstart": _coldstart,
    "grpo": _grpo,
    "calibrated": _calibrated,
}


def _stage(
    config: RunConfig,
    name: str,
    *,
    clips: int | None,
    epochs: float | None,
    examples: int | None,
    updates: int | None,
    groups: int | None = 0,
    rollouts: int | None = 0,
) -> StagePlan:
    """A stage that answers ``groups`` prompts with ``rollouts`` traces and learns from examples."""
    rollout = config.rollout
    return StagePlan(
        name=name,
        clips=clips,
        epochs=epochs,
        rollouts=rollouts,
        examples=examples,
        updates=updates,
        max_prompt_tokens=None if groups is None else groups * rollout.max_prompt_length,
        max_response_tokens=None if rollouts is None else rollouts * rollout.max_response_length,
    )


def _updates(examples: int | None, batch_size: int, epochs: int) -> int | None:
    """The last batch of an epoch may be short."""
    return None if examples is None else epochs * -(-examples // batch_size)


def _warnings(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> list[str]:
    rollout, groups = config.rollout, config.grpo.groups_per_step
    found = [
        f"{name}.num_gpus = {section.num_gpus:g} with {name}.dtype = 'float32': twice the memory "
        "and slow on a GPU; set dtype = 'bfloat16', unless exact parity is what you want"
        for name, section in (("rollout", rollout), ("learner", config.learner))
        if section.num_gpus and section.dtype == "float32"
    ]
    if config.calibrate.split == "train":
        found.append(
            "calibrate.split = 'train': GRPO has taught the policy the labels of these clips, so "
            "its traces there flatter it; give clips of their own as split 'cal'"
        )
    if clips and clips.train < groups:
        found.append(
            f"{clips.train} train clips are fewer than grpo.groups_per_step = {groups}: a step "
            "asks about a clip more than once; lower groups_per_step or add clips"
        )
    if tokens and tokens.tokens + 2 > rollout.max_prompt_length:  # 2: vision start and end
        found.append(
            f"a clip of {tokens.frames} frames of {tokens.max_pixels} pixels is {tokens.tokens} "
            f"video tokens, with text more than rollout.max_prompt_length = "
            f"{rollout.max_prompt_length}, and would be refused; raise it, or lower "
            "video.max_frames or video.max_pixels"
        )
    room = memory.engine.kv_cache_tokens if memory else None
    if room is not None and room < rollout.max_model_len:
        found.append(
            f"rollout.kv_cache_gb = {rollout.kv_cache_gb:g} holds {room} tokens, and one sequence "
            f"may have {rollout.max_model_len}: the engine refuses to start; raise kv_cache_gb, or "
            "lower max_prompt_length or max_response_length"
        )
    return found
