"""Plans a run without starting it: stages, workers, batches, memory, warnings.

    recipe (+ manifest and model, where they are here) -> make_plan -> Plan -> table, JSON

Nothing is started and no clip is opened, so a plan is no proof: `run` checks clips, prompts and the
tokenizer besides. Counts suppose that no clip fails.
"""

from collections.abc import Sequence
from dataclasses import replace

from cluster.config.controls import calibration_of, grpo_of
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.inputs.model_folder import with_cached_model
from cluster.inputs.samples import SampleSplits, check_stages
from cluster.inputs.scorer import make_scorer
from cluster.plan.adapter_size import engine_adapter_bytes, trained_adapter
from cluster.plan.disk_size import archive_bytes, cache_bytes, checkpoint_bytes, run_bytes
from cluster.plan.fleet import Fleet, plan_fleet
from cluster.plan.model_size import (
    KNOWN_MODELS,
    ModelShape,
    engine_memory,
    rank_memory,
    read_max_pixels,
    read_shape,
    video_tokens,
)
from cluster.plan.types import (
    ClipCounts,
    ClipTokens,
    Disk,
    Measurement,
    Memory,
    Plan,
    StagePlan,
    StepPlan,
    Workers,
)
from cluster.plan.warnings import warnings_of
from rollout.manifest import read_manifest, select
from video.config import total_per_frame
from video.families import family_of
from wire.types import Sample, Split


def make_plan(config: RunConfig, stages: Sequence[str], fleet: Fleet | None = None) -> Plan:
    """Plan the named stages; ``fleet``: on this cluster.

    Raises UserError (ConfigError, DataError) as `run` does for what is here and wrong.
    """
    make_scorer(config)  # names a missing reward function
    manifest = config.data.manifest
    if not manifest.exists():
        note = f"there is no manifest {manifest}: counts that depend on it are unknown"
        return plan_of(config, stages, None, note, fleet=fleet)
    samples = read_manifest(manifest, config.label_set, config.data.media_root)
    check_stages(config, SampleSplits(samples=samples), stages)
    return plan_of(config, stages, samples, fleet=fleet)


def plan_of(
    config: RunConfig,
    stages: Sequence[str],
    samples: Sequence[Sample] | None,
    *notes: str,
    fleet: Fleet | None = None,
) -> Plan:
    """Plan the named stages over ``clips``. Raises ConfigError for a model of another kind."""
    clips = None if samples is None else count_clips(config, samples)
    shape, more = _model_shape(config)
    tokens = _clip_tokens(config, shape)
    if shape and not tokens:
        more.append("video tokens are unknown: neither the recipe nor the model sets max_pixels")
    memory = _memory(config, shape) if shape else None
    rollout, learner = config.rollout, config.learner
    planned = tuple(_stage(config, config.chain[name], samples) for name in stages)
    on_fleet = None
    if fleet is not None and shape and tokens and memory:
        on_fleet = plan_fleet(config, shape, fleet, tokens.tokens, memory.rank, memory.engine)
    elif fleet is not None:
        more.append("the cluster is not planned: the model's sizes are unknown")
    return Plan(
        model=str(config.model),
        clips=clips,
        rollout=_workers(rollout.num_workers, rollout.num_cpus, rollout.num_gpus),
        learner=_workers(learner.num_ranks, learner.num_cpus, learner.num_gpus),
        stages=planned,
        measurement=clips and _measurement(config, clips.evaluation),
        step=_step(config),
        clip_tokens=tokens,
        memory=memory,
        disk=_disk(config, shape, planned, tokens, len(samples or ())) if shape else None,
        fleet=on_fleet,
        notes=(*notes, *more),
        warnings=tuple(warnings_of(config, clips, tokens, memory)),
    )


def count_clips(config: RunConfig, samples: Sequence[Sample]) -> ClipCounts:
    """Count the clips of a manifest by use."""
    train = select(samples, Split.TRAIN)
    return ClipCounts(
        train=len(train),
        with_trace=sum(bool(sample.trace) for sample in train),
        calibration=len(select(samples, Split(calibration_of(config).split))),
        evaluation=len(select(samples, config.evaluate.split)),
    )


def _model_shape(config: RunConfig) -> tuple[ModelShape | None, list[str]]:
    folder = with_cached_model(config).model
    absent = f"the model is not here ({folder})"
    if folder.is_dir():
        family_of(folder)  # names a model of another kind, and a config that is none
        shape = read_shape(folder)
        lacking = f"memory is not estimated: {folder / 'config.json'} does not give all sizes"
        return shape, [] if shape else [lacking]
    if folder.name in KNOWN_MODELS:
        return KNOWN_MODELS[folder.name], [f"{absent}: sizes are those known of {folder.name}"]
    known = ", ".join(KNOWN_MODELS)
    return None, [f"{absent}: video tokens and memory are not estimated (known by name: {known})"]


def largest_clip(config: RunConfig) -> ClipTokens | None:
    """The largest clip that sampling lets through; None if the model's files give no bound."""
    return _clip_tokens(config, _model_shape(config)[0])


def _clip_tokens(config: RunConfig, shape: ModelShape | None) -> ClipTokens | None:
    video = config.video
    if shape is None:
        return None
    folder = with_cached_model(config).model
    max_pixels = video.max_pixels or read_max_pixels(folder, shape, video.max_frames)
    if max_pixels is None:
        return None
    if video.total_pixels is not None:
        max_pixels = min(max_pixels, total_per_frame(video.total_pixels, video.max_frames))
    tokens = video_tokens(shape, video, max_pixels)
    return ClipTokens(frames=video.max_frames, max_pixels=max_pixels, tokens=tokens)


def _memory(config: RunConfig, shape: ModelShape) -> Memory:
    learner, rollout, grpo = config.learner, config.rollout, grpo_of(config)
    engine, adapter = engine_memory(shape, rollout), trained_adapter(shape, learner)
    if (lora := learner.lora) and learner.hands_off_adapters:
        room = engine_adapter_bytes(shape, lora.rank, config.adapters_per_engine, rollout.dtype)
        engine = replace(engine, adapter_bytes=room // rollout.tensor_parallel_size)
    return Memory(
        parameters=shape.num_parameters,
        trained_parameters=adapter or shape.num_trained(learner),
        rank=rank_memory(
            shape,
            learner,
            grpo.optim,
            adapter,
            # with LoRA the reference is the policy with its adapter off
            reference=grpo.loss.needs_reference and learner.lora is None,
        ),
        engine=engine,
    )


def _disk(
    config: RunConfig,
    shape: ModelShape,
    stages: Sequence[StagePlan],
    tokens: ClipTokens | None,
    num_clips: int,
) -> Disk:
    clip = cache_bytes(shape, tokens.tokens) if tokens else None
    cache = int(config.video.cache_max_gb * 2**30)
    return Disk(
        checkpoint=checkpoint_bytes(config, shape),
        run=run_bytes(config, shape, [stage.name for stage in stages], num_clips),
        archive=archive_bytes(
            sum(stage.max_prompt_tokens or 0 for stage in stages),
            sum(stage.max_response_tokens or 0 for stage in stages),
        ),
        unknown=tuple(stage.name for stage in stages if stage.max_response_tokens is None),
        clip=clip,
        cache=cache,
    )


def _workers(count: int, cpus: float, gpus: float) -> Workers:
    return Workers(
        count=count, cpus_each=cpus, gpus_each=gpus, cpus=count * cpus, gpus=count * gpus
    )


def _step(config: RunConfig) -> StepPlan | None:
    grpo, rollout = grpo_of(config), config.rollout
    if not any(isinstance(stage, GrpoStage) for stage in config.chain):
        return None
    responses = rollout.group_size * rollout.max_response_length
    return StepPlan(
        groups=grpo.groups_per_step,
        rollouts=grpo.groups_per_step * rollout.group_size,
        updates=grpo.updates_per_step,
        steps_between_saves=grpo.save_every,
        longest_row_tokens=rollout.max_prompt_length + responses,
    )


def _measurement(config: RunConfig, clips: int) -> Measurement:
    return Measurement(
        split=config.evaluate.split,
        clips=clips,
        max_prompt_tokens=clips * config.rollout.max_prompt_length,
        max_response_tokens=clips * config.rollout.max_response_length,
    )


def _stage(config: RunConfig, stage: Stage, samples: Sequence[Sample] | None) -> StagePlan:
    """A stage that answers ``groups`` prompts with ``rollouts`` traces and learns from examples."""
    rollout, work = config.rollout, stage.work(samples, config.rollout)
    prompts, responses = rollout.max_prompt_length, work.max_length or rollout.max_response_length
    validated = None
    if samples is not None and work.validations is not None:
        clips = len(select(samples, stage.validated.split))
        validated = work.validations * min(clips, stage.validated.num_clips)
    return StagePlan(
        name=stage.name,
        clips=work.clips,
        epochs=work.epochs,
        rollouts=work.rollouts,
        examples=work.examples,
        updates=work.updates,
        steps=work.steps,
        saves=work.saves,
        max_prompt_tokens=None if work.groups is None else work.groups * prompts,
        max_response_tokens=None if work.rollouts is None else work.rollouts * responses,
        validations=work.validations,
        validated=validated if work.validations != 0 else 0,
    )
