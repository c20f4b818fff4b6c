"""What keys of verl and TRL are called here: a recipe that has one is told the name.

Left: verl's dotted names, TRL's plain ones. Right: a key of a recipe, or an option of ``run``.
"""

_REWARD = 'a [[reward.terms]] with function = "FILE.py:FUNCTION"'

VERL = {
    "actor_rollout_ref.model.path": "model",
    "actor_rollout_ref.model.enable_gradient_checkpointing": "learner.gradient_checkpointing",
    "actor_rollout_ref.actor.clip_ratio": "grpo.loss.clip_ratio_low and grpo.loss.clip_ratio_high",
    "actor_rollout_ref.actor.clip_ratio_c": "grpo.loss.clip_ratio_c",
    "actor_rollout_ref.actor.clip_ratio_high": "grpo.loss.clip_ratio_high",
    "actor_rollout_ref.actor.clip_ratio_low": "grpo.loss.clip_ratio_low",
    "actor_rollout_ref.actor.freeze_vision_tower": "learner.freeze_vision_tower",
    "actor_rollout_ref.actor.grad_clip": "grpo.optim.grad_clip",
    "actor_rollout_ref.actor.optim.lr": "grpo.optim.learning_rate",
    "actor_rollout_ref.actor.optim.lr_warmup_steps": "grpo.optim.warmup_steps",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": "grpo.optim.warmup_frac",
    "actor_rollout_ref.actor.optim.weight_decay": "grpo.optim.weight_decay",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "learner.max_tokens_per_batch",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": "learner.max_tokens_per_batch",
    "actor_rollout_ref.actor.ppo_mini_batch_size": "grpo.groups_per_update",
    "actor_rollout_ref.rollout.dtype": "rollout.dtype",
    "actor_rollout_ref.rollout.enforce_eager": "rollout.enforce_eager",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "actor_rollout_ref.rollout.max_num_batched_tokens": "rollout.max_batched_tokens",
    "actor_rollout_ref.rollout.max_num_seqs": "rollout.max_num_seqs",
    "actor_rollout_ref.rollout.n": "rollout.group_size",
    "actor_rollout_ref.rollout.prompt_length": "rollout.max_prompt_length",
    "actor_rollout_ref.rollout.response_length": "rollout.max_response_length",
    "actor_rollout_ref.rollout.temperature": "rollout.temperature",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "rollout.tensor_parallel_size",
    "algorithm.rollout_correction.rollout_is_threshold": "grpo.loss.rollout_is_threshold",
    "custom_reward_function.name": _REWARD,
    "custom_reward_function.path": _REWARD,
    "data.max_prompt_length": "rollout.max_prompt_length",
    "data.max_response_length": "rollout.max_response_length",
    "data.seed": "seed",
    "data.train_batch_size": "grpo.groups_per_step",
    "data.train_files": "data.manifest",
    "data.val_files": "data.manifest",
    "reward_model.custom_reward_function.path": _REWARD,
    "trainer.default_local_dir": "--run-dir",
    "trainer.experiment_name": "--run-dir",
    "trainer.n_gpus_per_node": "learner.num_gpus and rollout.num_gpus",
    "trainer.resume_mode": "--resume",
    "trainer.save_freq": "grpo.save_every",
    "trainer.total_epochs": "grpo.num_steps",
    "trainer.total_training_steps": "grpo.num_steps",
}

TRL = {
    "bf16": "learner.dtype",
    "epsilon": "grpo.loss.clip_ratio_low",
    "epsilon_high": "grpo.loss.clip_ratio_high",
    "generation_batch_size": "grpo.groups_per_step",
    "gradient_checkpointing": "learner.gradient_checkpointing",
    "learning_rate": "grpo.optim.learning_rate",
    "max_completion_length": "rollout.max_response_length",
    "max_grad_norm": "grpo.optim.grad_clip",
    "max_prompt_length": "rollout.max_prompt_length",
    "max_steps": "grpo.num_steps",
    "model_name_or_path": "model",
    "num_generations": "rollout.group_size",
    "num_train_epochs": "grpo.num_steps",
    "output_dir": "--run-dir",
    "per_device_train_batch_size": "grpo.groups_per_step",
    "resume_from_checkpoint": "--resume",
    "reward_funcs": _REWARD,
    "save_steps": "grpo.save_every",
    "steps_per_generation": "grpo.groups_per_update",
    "temperature": "rollout.temperature",
    "vllm_gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "vllm_importance_sampling_cap": "grpo.loss.rollout_is_threshold",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "warmup_ratio": "grpo.optim.warmup_frac",
    "warmup_steps": "grpo.optim.warmup_steps",
    "weight_decay": "grpo.optim.weight_decay",
}


def own_name(key: str) -> str | None:
    """What an unknown key stands for here; None: neither verl nor TRL has it.

    verl's is found by any end of its dotted name, for people cut the long beginning off.
    """
    if key in VERL:
        return VERL[key]
    name = key.rpartition(".")[2]
    if name in TRL:
        return TRL[name]
    ends = {ours for theirs, ours in VERL.items() if theirs.endswith("." + key)}
    return ends.pop() if len(ends) == 1 else None
