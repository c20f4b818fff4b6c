"""What looks wrong in a recipe, seen from its plan, and does not keep a run from starting."""

from cluster.config import RunConfig
from cluster.plan_types import ClipCounts, ClipTokens, Memory

_FEW_THREADS = 4
_LORA_RATE = 5e-6


def warnings_of(
    config: RunConfig, clips: ClipCounts | None, tokens: ClipTokens | None, memory: Memory | None
) -> list[str]:
    """In words for who wrote the recipe. None: unknown without the manifest, or the model."""
    rollout, groups = config.rollout, config.grpo.groups_per_step
    found = [
        f"{name}.num_gpus = {section.num_gpus:g} with {name}.dtype = 'float32': twice the memory "
        "and slow on a GPU; set dtype = 'bfloat16', unless exact parity is what you want"
        for name, section in (("rollout", rollout), ("learner", config.learner))
        if section.num_gpus and section.dtype == "float32"
    ]
    learner = config.learner
    if learner.offload != "none" and learner.num_gpus and learner.num_threads <= _FEW_THREADS:
        found.append(
            f"learner.offload = '{learner.offload}' updates the weights on the CPU, with "
            f"learner.num_threads = {learner.num_threads} threads: GPUs will wait for it; raise "
            "num_threads and num_cpus to a rank's share of the node's cores"
        )
    if config.calibrate.split == "train":
        found.append(
            "calibrate.split = 'train': GRPO has taught the policy the labels of these clips, so "
            "its traces there flatter it; give clips of their own as split 'cal'"
        )
    if any(term.function == "temporal_contrast" for term in config.reward.terms):
        found.append(
            f"temporal_contrast has {rollout.group_size // 2} more traces a group written, on "
            "shuffled frames, and they are not counted here; expect half as much generation again"
        )
    if clips and clips.train < groups:
        found.append(
            f"{clips.train} train clips are fewer than grpo.groups_per_step = {groups}: a step "
            "asks about a clip more than once; lower groups_per_step or add clips"
        )
    if config.learner.lora and config.grpo.optim.learning_rate < _LORA_RATE:
        found.append(
            f"learner.lora with grpo.optim.learning_rate = {config.grpo.optim.learning_rate:g}: "
            "LoRA wants about ten times the rate of full training; raise it to 1e-5 or more"
        )
    filtering = config.grpo.filter_groups
    if filtering.enable:
        found.append(
            "grpo.filter_groups.enable: groups without signal are asked again, which is not in "
            f"these counts; a step may ask up to {filtering.max_num_gen_batches} times its clips"
        )
    if large := large_clip_warning(config, tokens):
        found.append(large)
    if fault := kv_cache_fault(config, memory):
        found.append(fault)
    return found


def large_clip_warning(config: RunConfig, tokens: ClipTokens | None) -> str | None:
    """What is said where the largest clip that the recipe allows makes too long a prompt."""
    limit = config.rollout.max_prompt_length
    if tokens is None or tokens.tokens + 2 <= limit:  # 2: vision start and end
        return None
    return (
        f"a clip of {tokens.frames} frames of {tokens.max_pixels} pixels is {tokens.tokens} "
        f"video tokens, with text more than rollout.max_prompt_length = {limit}, and would be "
        "refused; raise it, or lower video.max_frames or video.max_pixels"
    )


def kv_cache_fault(config: RunConfig, memory: Memory | None) -> str | None:
    """Why the engine would refuse its cache; None if it holds a sequence, or is not known."""
    rollout = config.rollout
    room = memory.engine.kv_cache_tokens if memory else None
    if room is None or room >= rollout.max_model_len:
        return None
    return (
        f"rollout.kv_cache_gb = {rollout.kv_cache_gb:g} holds {room} tokens, and one sequence "
        f"may have {rollout.max_model_len}: the engine refuses to start; raise kv_cache_gb, or "
        "lower max_prompt_length or max_response_length"
    )
