"""Warnings of a plan: settings of a recipe that look wrong, but do not keep a run from starting.

To add a warning: a rule, and an entry in ``_RULES``.
"""

from collections.abc import Callable

from cluster.config.controls import calibration_of, grpo_of
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.driver.units import format_bytes
from cluster.plan.types import ClipCounts, ClipTokens, Memory
from learner.config import LearnerConfig
from rollout.config import RolloutConfig
from video.disk_cache.retention import WINDOW_SHARE, hit_rate

_FEW_THREADS = 4
_LORA_RATE = 5e-6

Rule = Callable[[RunConfig, ClipCounts | None, ClipTokens | None, Memory | None], str | None]
"""A warning for who wrote the recipe; None: nothing to warn of. Clips are None without the
manifest, tokens and memory without the model."""


def warnings_of(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> list[str]:
    """Warnings of all rules, in their order. None: unknown without the manifest, or the model."""
    warnings = (rule(config, clips, tokens, memory) for rule in _RULES)
    return [warning for warning in warnings if warning is not None]


def large_clip_warning(config: RunConfig, tokens: ClipTokens | None) -> str | None:
    """Warning if the largest clip that the recipe allows makes too long a prompt."""
    limit = config.rollout.max_prompt_length
    if tokens is None or tokens.tokens + 2 <= limit:  # 2: vision start and end
        return None
    return (
        f"a clip of {tokens.frames} frames of {tokens.max_pixels} pixels is {tokens.tokens} "
        f"video tokens, with text more than rollout.max_prompt_length = {limit}, and would be "
        "refused; raise it, or lower video.max_frames or video.max_pixels"
    )


def kv_cache_fault(config: RunConfig, memory: Memory | None) -> str | None:
    """Why the engine would refuse its cache; None if a sequence fits, or the size is unknown."""
    rollout = config.rollout
    room = memory.engine.kv_cache_tokens if memory else None
    if room is None or room >= rollout.max_model_len:
        return None
    return (
        f"rollout.kv_cache_gb = {rollout.kv_cache_gb:g} holds {room} tokens, and one sequence "
        f"may have {rollout.max_model_len}: the engine refuses to start; raise kv_cache_gb, or "
        "lower max_prompt_length or max_response_length"
    )


def _rollout_in_float32(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    return _float32_on_gpu("rollout", config.rollout)


def _learner_in_float32(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    return _float32_on_gpu("learner", config.learner)


def _float32_on_gpu(name: str, section: RolloutConfig | LearnerConfig) -> str | None:
    if not section.num_gpus or section.dtype != "float32":
        return None
    return (
        f"{name}.num_gpus = {section.num_gpus:g} with {name}.dtype = 'float32': twice the memory "
        "and slow on a GPU; set dtype = 'bfloat16', unless exact parity is what you want"
    )


def _offload_with_few_threads(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    learner = config.learner
    if learner.offload == "none" or not learner.num_gpus or learner.num_threads > _FEW_THREADS:
        return None
    return (
        f"learner.offload = '{learner.offload}' updates the weights on the CPU, with "
        f"learner.num_threads = {learner.num_threads} threads: GPUs will wait for it; raise "
        "num_threads and num_cpus to a rank's share of the node's cores"
    )


def _calibrated_on_train(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    if calibration_of(config).split != "train":
        return None
    return (
        "calibrate.split = 'train': GRPO has taught the policy the labels of these clips, so "
        "its traces there flatter it; give clips of their own as split 'cal'"
    )


def _temporal_contrast(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    if not any(term.function == "temporal_contrast" for term in config.reward.terms):
        return None
    return (
        f"temporal_contrast has {config.rollout.group_size // 2} more traces a group written, on "
        "shuffled frames, and they are not counted here; expect half as much generation again"
    )


def _has_grpo(config: RunConfig) -> bool:
    """Whether a stage reads the settings of GRPO; sections give defaults to those that are
    there."""
    return any(isinstance(stage, GrpoStage) for stage in config.chain)


def _fewer_clips_than_groups(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    groups = grpo_of(config).groups_per_step
    if not _has_grpo(config) or clips is None or clips.train >= groups:
        return None
    return (
        f"{clips.train} train clips are fewer than grpo.groups_per_step = {groups}: a step "
        "asks about a clip more than once; lower groups_per_step or add clips"
    )


def _low_rate_for_lora(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    rate = grpo_of(config).optim.learning_rate
    if not _has_grpo(config) or not config.learner.lora or rate >= _LORA_RATE:
        return None
    return (
        f"learner.lora with grpo.optim.learning_rate = {rate:g}: "
        "LoRA wants about ten times the rate of full training; raise it to 1e-5 or more"
    )


def _dynamic_sampling(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    filtering = grpo_of(config).filter_groups
    if not _has_grpo(config) or not filtering.enable:
        return None
    return (
        "grpo.filter_groups.enable: groups without signal are asked again, which is not in "
        f"these counts; a step may ask up to {filtering.max_num_gen_batches} times its clips"
    )


def _small_clip_cache(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    if clips is None or tokens is None:
        return None
    of_clip = 3 * tokens.frames * tokens.max_pixels  # bytes: video/pixel_codes.py
    rate = hit_rate(clips.train * of_clip, config.video.cache_max_gb * 2**30, WINDOW_SHARE)
    if rate == 1.0:
        return None
    needed = clips.train * of_clip / 2**30
    return (
        f"{clips.train} train clips of up to {format_bytes(of_clip)} are more than "
        f"video.cache_max_gb = {config.video.cache_max_gb:g}: in every epoch a node's cache holds "
        f"the same {rate:.0%} of them, the others are decoded anew; raise it up to "
        f"{needed:.0f} if the nodes' disks have room"
    )


def _large_clip(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    return large_clip_warning(config, tokens)


def _small_kv_cache(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> str | None:
    return kv_cache_fault(config, memory)


_RULES: tuple[Rule, ...] = (
    _rollout_in_float32,
    _learner_in_float32,
    _offload_with_few_threads,
    _calibrated_on_train,
    _temporal_contrast,
    _fewer_clips_than_groups,
    _low_rate_for_lora,
    _dynamic_sampling,
    _small_clip_cache,
    _large_clip,
    _small_kv_cache,
)
