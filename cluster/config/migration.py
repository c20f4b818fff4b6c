"""Maps settings of verl, TRL, OpenRLHF and Qwen's video tools to our recipe keys: tables, and the
hint for an unknown key in a recipe.

    a key as typed elsewhere -> Moved -> our key, or why there is none
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Moved:
    """Setting of another system, with our recipe key.

    Example:
        Moved("actor_rollout_ref.rollout.n", "rollout.group_size", "traces per clip")
    """

    theirs: str
    """Dotted, as it is typed there; ``a.b.*`` stands for all below it."""
    ours: str
    """Our recipe key; empty: there is none."""
    note: str = ""
    """Difference to our key; without a key, the substitute, or the reason why there is none."""


_REFERENCE = "with a KL coefficient, the model that the stage started from, frozen on every rank"
_LAYERS = "'all-linear' or names of layers; of the tower's with learner.freeze_vision_tower = false"
_NO_CRITIC = "GRPO has no critic"
_WHOLE = "sampling is never cut short: that would bias the logprobs"
_ALL_KEPT = "every trace is kept in RUN/archive"
_STEPS = "in steps: epochs x train clips / grpo.groups_per_step"
_TOKENS = "in tokens, not in rows"
_AT_THE_END = "no measurement during GRPO; every stage is measured at its end"
_ONE_MANIFEST = "one manifest for all splits; its column split says train, val, cal or test"
_LOGS = "TensorBoard is always written; [logging] adds W&B, MLflow, verl's names: docs/metrics.md"
_PLACED = "Ray places workers: rollout.num_workers, learner.num_ranks, and num_gpus of both"
_VOTES = "one trace per clip measures a stage; a majority vote is the control arm vote"
_NO_SLEEP = "engines and learner keep their memory; nothing sleeps"
_SHARED = "engines and learner are workers of their own; num_gpus = 0.5 of both shares a GPU"
_CONSTANT = "constant, linear or cosine"

_A, _R = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

VERL: tuple[Moved, ...] = (
    Moved("data.train_files", "data.manifest", _ONE_MANIFEST),
    Moved("data.val_files", "data.manifest", "rows with split test, or see evaluate.split"),
    Moved("data.train_batch_size", "grpo.groups_per_step", "in clips, as in verl"),
    Moved("data.val_batch_size", "", "not needed: rollout.max_concurrency bounds what is in work"),
    Moved("data.max_prompt_length", "rollout.max_prompt_length", "video tokens count; never cut"),
    Moved("data.max_response_length", "rollout.max_response_length"),
    Moved("data.prompt_key", "", "prompts are made from the labels (rollout/prompt.py)"),
    Moved("data.image_key", "", "video only"),
    Moved("data.video_key", "", "the manifest's column is called video: one path per row"),
    Moved("data.reward_fn_key", "", "a manifest column data_source reaches reward functions"),
    Moved("data.shuffle", "", "train clips are always shuffled, from seed"),
    Moved("data.seed", "seed"),
    Moved("data.truncation", "", "a prompt that is too long is refused, never cut"),
    Moved("data.filter_overlong_prompts", "", "such a prompt is a typed failure, and not trained"),
    Moved("data.custom_cls.*", "", "write an importer (rollout/importers) that makes a manifest"),
    Moved("data.dataloader_num_workers", "video.decode_workers", "clips are cached"),
    Moved("data.trust_remote_code", "", "code that comes with a model is never run"),
    Moved("actor_rollout_ref.model.path", "model"),
    Moved(
        "actor_rollout_ref.model.enable_gradient_checkpointing", "learner.gradient_checkpointing"
    ),
    Moved("actor_rollout_ref.model.lora_rank", "learner.lora.rank", "0 there: no [learner.lora]"),
    Moved("actor_rollout_ref.model.lora_alpha", "learner.lora.alpha"),
    Moved("actor_rollout_ref.model.target_modules", "learner.lora.target_modules", _LAYERS),
    Moved("actor_rollout_ref.model.exclude_modules", "learner.lora.target_modules", _LAYERS),
    Moved("actor_rollout_ref.model.lora.rank", "learner.lora.rank"),
    Moved("actor_rollout_ref.model.lora.alpha", "learner.lora.alpha"),
    Moved("actor_rollout_ref.model.lora.dropout", "learner.lora.dropout"),
    Moved("actor_rollout_ref.model.lora.merge", "learner.lora.handoff", "true there is 'merged'"),
    Moved(
        "actor_rollout_ref.model.use_remove_padding",
        "",
        "always: groups are packed without padding",
    ),
    Moved(
        "actor_rollout_ref.model.trust_remote_code", "", "code that comes with a model is never run"
    ),
    Moved(f"{_A}.strategy", "", "always DeepSpeed; see learner.zero_stage"),
    Moved(f"{_A}.ppo_mini_batch_size", "grpo.groups_per_update", "in clips, as in verl"),
    Moved(f"{_A}.ppo_micro_batch_size", "learner.max_tokens_per_batch", _TOKENS),
    Moved(f"{_A}.ppo_micro_batch_size_per_gpu", "learner.max_tokens_per_batch", _TOKENS),
    Moved(f"{_A}.ppo_max_token_len_per_gpu", "learner.max_tokens_per_batch"),
    Moved(f"{_A}.use_dynamic_bsz", "", "always: learner.max_tokens_per_batch"),
    Moved(f"{_A}.ppo_epochs", "grpo.ppo_epochs"),
    Moved(f"{_A}.clip_ratio", "grpo.loss.clip_ratio_low", "and grpo.loss.clip_ratio_high"),
    Moved(f"{_A}.clip_ratio_low", "grpo.loss.clip_ratio_low"),
    Moved(f"{_A}.clip_ratio_high", "grpo.loss.clip_ratio_high", "0.28 here, 0.2 in verl"),
    Moved(f"{_A}.clip_ratio_c", "grpo.loss.clip_ratio_c"),
    Moved(f"{_A}.policy_loss.loss_mode", "grpo.loss.loss_mode", "vanilla, gspo or cispo"),
    Moved(f"{_A}.policy_loss.*", "", "the losses are in learner/objective/surrogate.py"),
    Moved(f"{_A}.loss_agg_mode", "grpo.loss.loss_agg_mode"),
    Moved(f"{_A}.loss_scale_factor", "rollout.max_response_length", "of seq-mean-token-sum-norm"),
    Moved(f"{_A}.entropy_coeff", "grpo.loss.entropy_coeff"),
    Moved(f"{_A}.use_kl_loss", "grpo.loss.kl_loss_coef", "above 0: on"),
    Moved(f"{_A}.kl_loss_coef", "grpo.loss.kl_loss_coef", "0 here, 0.001 in verl"),
    Moved(f"{_A}.kl_loss_type", "grpo.loss.kl_loss_type", "k1, k2 or k3 (verl: low_var_kl)"),
    Moved(f"{_A}.optim.lr", "grpo.optim.learning_rate"),
    Moved(f"{_A}.optim.lr_warmup_steps", "grpo.optim.warmup_steps", "in updates, not steps"),
    Moved(f"{_A}.optim.lr_warmup_steps_ratio", "grpo.optim.warmup_frac"),
    Moved(f"{_A}.optim.weight_decay", "grpo.optim.weight_decay", "0.1 here, 0.01 in verl"),
    Moved(f"{_A}.optim.betas", "grpo.optim.betas"),
    Moved(f"{_A}.optim.warmup_style", "grpo.optim.decay", _CONSTANT),
    Moved(f"{_A}.optim.lr_scheduler_type", "grpo.optim.decay", _CONSTANT),
    Moved(f"{_A}.optim.min_lr_ratio", "grpo.optim.min_lr_frac"),
    Moved(f"{_A}.optim.num_cycles", "", "half a cosine, from the peak to its floor"),
    Moved(f"{_A}.optim.total_training_steps", "grpo.num_steps"),
    Moved(f"{_A}.grad_clip", "grpo.optim.grad_clip"),
    Moved(f"{_A}.freeze_vision_tower", "learner.freeze_vision_tower", "true here"),
    Moved(f"{_A}.fsdp_config.optimizer_offload", "learner.offload", "'optimizer'"),
    Moved(f"{_A}.fsdp_config.param_offload", "learner.offload", "'optimizer_and_parameters'"),
    Moved(f"{_A}.fsdp_config.*", "", "DeepSpeed ZeRO: learner.zero_stage"),
    Moved(f"{_A}.ulysses_sequence_parallel_size", "", "no sequence parallelism"),
    Moved(f"{_A}.checkpoint.*", "", "a checkpoint is always whole: weights, optimiser, step"),
    Moved("actor_rollout_ref.ref.*", "", _REFERENCE),
    Moved(f"{_R}.name", "", "always vLLM"),
    Moved(f"{_R}.mode", "", "always vLLM's AsyncLLM; rollouts run ahead by grpo.max_staleness"),
    Moved(f"{_R}.n", "rollout.group_size"),
    Moved(f"{_R}.temperature", "rollout.temperature"),
    Moved(f"{_R}.top_p", "", _WHOLE),
    Moved(f"{_R}.top_k", "", _WHOLE),
    Moved(f"{_R}.prompt_length", "rollout.max_prompt_length"),
    Moved(f"{_R}.response_length", "rollout.max_response_length"),
    Moved(f"{_R}.dtype", "rollout.dtype"),
    Moved(f"{_R}.gpu_memory_utilization", "rollout.gpu_memory_utilization"),
    Moved(f"{_R}.tensor_model_parallel_size", "rollout.tensor_parallel_size"),
    Moved(f"{_R}.data_parallel_size", "rollout.num_workers", "an engine each"),
    Moved(f"{_R}.max_num_batched_tokens", "rollout.max_batched_tokens"),
    Moved(f"{_R}.max_num_seqs", "rollout.max_num_seqs"),
    Moved(f"{_R}.max_model_len", "", "rollout.max_prompt_length + rollout.max_response_length"),
    Moved(f"{_R}.enforce_eager", "rollout.enforce_eager"),
    Moved(f"{_R}.free_cache_engine", "", _NO_SLEEP),
    Moved(f"{_R}.calculate_log_probs", "", "always; see grpo.loss.rollout_is"),
    Moved(f"{_R}.log_prob_micro_batch_size_per_gpu", "learner.max_tokens_per_batch", _TOKENS),
    Moved(f"{_R}.val_kwargs.temperature", "evaluate.temperature"),
    Moved(f"{_R}.val_kwargs.n", "controls.num_votes", _VOTES),
    Moved(f"{_R}.val_kwargs.*", "", _WHOLE),
    Moved(f"{_R}.multi_turn.*", "", "one turn: a clip, a question, a trace"),
    Moved(f"{_R}.agent.*", "", "one turn: a clip, a question, a trace"),
    Moved(f"{_R}.engine_kwargs.*", "", "what is no key here is set in rollout/vllm_engine.py"),
    Moved(f"{_R}.update_weights_bucket_megabytes", "transfer.bucket_mb"),
    Moved(f"{_R}.checkpoint_engine.backend", "transfer.kind", "object_store, nccl or ipc"),
    Moved("actor_rollout_ref.nccl_timeout", "learner.timeout_s"),
    Moved("actor_rollout_ref.hybrid_engine", "", _SHARED),
    Moved("algorithm.adv_estimator", "grpo.loss.adv_estimator", "grpo or rloo"),
    Moved("algorithm.norm_adv_by_std_in_grpo", "grpo.loss.norm_adv_by_std_in_grpo"),
    Moved("algorithm.gamma", "", _NO_CRITIC),
    Moved("algorithm.lam", "", _NO_CRITIC),
    Moved("algorithm.use_kl_in_reward", "grpo.loss.kl_coef", "above 0: on"),
    Moved("algorithm.kl_penalty", "grpo.loss.kl_penalty", "k1 (verl: kl), k2 (mse), k3"),
    Moved("algorithm.kl_ctrl.kl_coef", "grpo.loss.kl_coef"),
    Moved("algorithm.kl_ctrl.*", "", "the coefficient is fixed"),
    Moved("algorithm.rollout_correction.rollout_is", "grpo.loss.rollout_is", "null is none"),
    Moved(
        "algorithm.rollout_correction.rollout_is_threshold",
        "grpo.loss.rollout_is_threshold",
        "a pair [0.5, 5.0] for 0.5_5.0 (IcePop)",
    ),
    Moved("algorithm.rollout_correction.bypass_mode", "grpo.loss.old_logprobs", "true is engine"),
    Moved(
        "algorithm.rollout_correction.*", "", "an engine off by parity.tolerance answers nothing"
    ),
    Moved("algorithm.filter_groups.enable", "grpo.filter_groups.enable"),
    Moved(
        "algorithm.filter_groups.max_num_gen_batches",
        "grpo.filter_groups.max_num_gen_batches",
        "at the bound the step trains on what it has; verl ends the run",
    ),
    Moved("algorithm.filter_groups.metric", "", "always the total reward"),
    Moved("trainer.nnodes", "", _PLACED),
    Moved("trainer.n_gpus_per_node", "", _PLACED),
    Moved("trainer.total_epochs", "grpo.num_steps", _STEPS),
    Moved("trainer.total_training_steps", "grpo.num_steps"),
    Moved("trainer.save_freq", "grpo.save_every"),
    Moved("trainer.test_freq", "", _AT_THE_END),
    Moved("trainer.val_before_train", "", "always: the stage base"),
    Moved("trainer.val_only", "", "`deepintuit evaluate`"),
    Moved("trainer.logger", "", _LOGS),
    Moved("trainer.project_name", "logging.wandb.project"),
    Moved("trainer.experiment_name", "", "`--run-dir`"),
    Moved("trainer.default_local_dir", "", "`--run-dir`"),
    Moved("trainer.resume_mode", "", "`--resume`"),
    Moved("trainer.resume_from_path", "", "`--run-dir` with `--resume`: the last whole checkpoint"),
    Moved("trainer.max_actor_ckpt_to_keep", "grpo.keep_last"),
    Moved("trainer.rollout_data_dir", "", _ALL_KEPT),
    Moved("trainer.validation_data_dir", "", _ALL_KEPT),
    Moved("trainer.log_val_generations", "", _ALL_KEPT),
    Moved("trainer.critic_warmup", "", _NO_CRITIC),
    Moved("trainer.balance_batch", "", "always: rows are dealt to ranks by tokens"),
    Moved("trainer.ray_wait_register_center_timeout", "cluster.start_timeout_s"),
    Moved("trainer.device", "", "DEEPINTUIT_DEVICE at `make setup`, and num_gpus of both sections"),
    Moved("custom_reward_function.path", "reward.terms.function", "path/to/file.py:function"),
    Moved("custom_reward_function.name", "reward.terms.function", "path/to/file.py:function"),
    Moved("custom_reward_function.reward_kwargs.*", "reward.terms.params"),
    Moved("reward.custom_reward_function.reward_kwargs.*", "reward.terms.params"),
    Moved(
        "reward.custom_reward_function.path", "reward.terms.function", "path/to/file.py:function"
    ),
    Moved(
        "reward.custom_reward_function.name", "reward.terms.function", "path/to/file.py:function"
    ),
    Moved("reward.reward_manager.*", "reward.combine", "and reward.terms with weight, gated_by"),
    Moved("reward.sandbox_fusion.*", "", "a process per function with a deadline; no sandbox"),
    Moved(
        "reward_model.reward_manager", "reward.combine", "and reward.terms with weight, gated_by"
    ),
    Moved("reward_model.*", "", "no reward model; the term judge asks an endpoint"),
    Moved("critic.*", "", _NO_CRITIC),
    Moved("ray_kwargs.ray_init.address", "cluster.address"),
    Moved("ray_kwargs.*", "", "cluster.address joins a Ray; without it there is a local one"),
    Moved("global_profiler.*", "", "no profiler; timing_s/* has seconds per phase"),
)
"""verl 0.9 (Hydra), with the older places of the reward's keys."""

TRL: tuple[Moved, ...] = (
    Moved("model_name_or_path", "model"),
    Moved("dataset_name", "data.manifest", "`deepintuit import` makes one"),
    Moved("reward_funcs", "reward.terms", "one table per function"),
    Moved("reward_weights", "reward.terms.weight"),
    Moved("num_generations", "rollout.group_size"),
    Moved("num_generations_eval", "controls.num_votes", _VOTES),
    Moved("max_prompt_length", "rollout.max_prompt_length", "video tokens count; never cut"),
    Moved("max_completion_length", "rollout.max_response_length"),
    Moved("generation_batch_size", "grpo.groups_per_step", "in clips here, in completions there"),
    Moved("steps_per_generation", "grpo.groups_per_update", "clips per update, not their number"),
    Moved("num_iterations", "grpo.ppo_epochs"),
    Moved("temperature", "rollout.temperature"),
    Moved("top_p", "", _WHOLE),
    Moved("top_k", "", _WHOLE),
    Moved("min_p", "", _WHOLE),
    Moved("repetition_penalty", "", _WHOLE),
    Moved("generation_kwargs", "", "what is no key here is set in rollout/vllm_engine.py"),
    Moved("beta", "grpo.loss.kl_loss_coef", "in the loss, by k3"),
    Moved("sync_ref_model", "", _REFERENCE),
    Moved("ref_model_mixup_alpha", "", _REFERENCE),
    Moved("ref_model_sync_steps", "", _REFERENCE),
    Moved("epsilon", "grpo.loss.clip_ratio_low"),
    Moved("epsilon_high", "grpo.loss.clip_ratio_high", "0.28 here"),
    Moved("delta", "grpo.loss.clip_ratio_c", "the dual clip; 3 here, off in TRL"),
    Moved("loss_type", "grpo.loss.loss_agg_mode", "table in docs/objectives.md; also loss_mode"),
    Moved(
        "scale_rewards",
        "grpo.loss.norm_adv_by_std_in_grpo",
        "group is true, none is false; no batch",
    ),
    Moved("importance_sampling_level", "grpo.loss.loss_mode", "sequence is gspo"),
    Moved("mask_truncated_completions", "grpo.loss.mask_truncated"),
    Moved("entropy_coef", "grpo.loss.entropy_coeff"),
    Moved("top_entropy_quantile", "", "every sampled token trains"),
    Moved("vllm_importance_sampling_correction", "grpo.loss.rollout_is", "false is none"),
    Moved("vllm_importance_sampling_mode", "grpo.loss.rollout_is", "a pair as threshold masks"),
    Moved("vllm_importance_sampling_cap", "grpo.loss.rollout_is_threshold", "2 here, 3 in TRL"),
    Moved("vllm_importance_sampling_clip_max", "grpo.loss.rollout_is_threshold", "2 here"),
    Moved("vllm_importance_sampling_clip_min", "grpo.loss.rollout_is_threshold", "a pair"),
    Moved("use_vllm", "", "always"),
    Moved("vllm_mode", "", "engines are Ray workers: rollout.num_workers"),
    Moved("vllm_server_base_url", "", "engines are Ray workers: rollout.num_workers"),
    Moved("vllm_server_host", "", "engines are Ray workers: rollout.num_workers"),
    Moved("vllm_server_port", "", "engines are Ray workers: rollout.num_workers"),
    Moved("vllm_server_timeout", "cluster.start_timeout_s"),
    Moved("vllm_group_port", "transfer.port", "with transfer.kind = nccl"),
    Moved("vllm_gpu_memory_utilization", "rollout.gpu_memory_utilization"),
    Moved("vllm_tensor_parallel_size", "rollout.tensor_parallel_size"),
    Moved("vllm_max_model_length", "", "rollout.max_prompt_length + rollout.max_response_length"),
    Moved("vllm_enable_sleep_mode", "", _NO_SLEEP),
    Moved("ds3_gather_for_generation", "", "vLLM writes; weights are gathered to be sent to it"),
    Moved("shuffle_dataset", "", "train clips are always shuffled, from seed"),
    Moved("log_completions", "", _ALL_KEPT),
    Moved("output_dir", "", "`--run-dir`"),
    Moved("overwrite_output_dir", "", "`--overwrite`"),
    Moved("resume_from_checkpoint", "", "`--resume`"),
    Moved("learning_rate", "grpo.optim.learning_rate"),
    Moved("lr_scheduler_type", "grpo.optim.decay", _CONSTANT),
    Moved("lr_scheduler_kwargs", "grpo.optim.min_lr_frac", "the floor of linear and cosine"),
    Moved("warmup_steps", "grpo.optim.warmup_steps"),
    Moved("warmup_ratio", "grpo.optim.warmup_frac"),
    Moved("weight_decay", "grpo.optim.weight_decay", "0.1 here, 0 in TRL"),
    Moved("max_grad_norm", "grpo.optim.grad_clip"),
    Moved("adam_beta1", "grpo.optim.betas"),
    Moved("adam_beta2", "grpo.optim.betas"),
    Moved("num_train_epochs", "grpo.num_steps", _STEPS),
    Moved("max_steps", "grpo.num_steps"),
    Moved("per_device_train_batch_size", "learner.max_tokens_per_batch", _TOKENS),
    Moved("gradient_accumulation_steps", "", "follows from grpo.groups_per_update"),
    Moved("save_steps", "grpo.save_every"),
    Moved("save_total_limit", "grpo.keep_last"),
    Moved("eval_strategy", "", _AT_THE_END),
    Moved("eval_steps", "", _AT_THE_END),
    Moved("logging_steps", "", "every step is logged"),
    Moved("report_to", "", _LOGS),
    Moved("run_name", "", "`--run-dir`"),
    Moved("bf16", "learner.dtype", "and rollout.dtype"),
    Moved("fp16", "learner.dtype", "and rollout.dtype; bfloat16 or float32"),
    Moved("gradient_checkpointing", "learner.gradient_checkpointing"),
    Moved("deepspeed", "learner.zero_stage"),
    Moved("use_peft", "learner.lora", "a table [learner.lora] turns it on"),
    Moved("peft_config", "learner.lora", "a table [learner.lora] turns it on"),
    Moved("lora_r", "learner.lora.rank"),
    Moved("lora_alpha", "learner.lora.alpha"),
    Moved("lora_dropout", "learner.lora.dropout"),
    Moved("lora_target_modules", "learner.lora.target_modules", _LAYERS),
    Moved("use_rslora", "learner.lora.use_rslora"),
    Moved("max_tool_calling_iterations", "", "one turn: a clip, a question, a trace"),
)
"""GRPOConfig of TRL 1.9 to 1.14, with what its scripts take from transformers."""

OPENRLHF: tuple[Moved, ...] = (
    Moved("actor.model_name_or_path", "model"),
    Moved("data.prompt_dataset", "data.manifest", _ONE_MANIFEST),
    Moved("eval.dataset", "data.manifest", "rows with split test, or see evaluate.split"),
    Moved("data.input_key", "", "prompts are made from the labels (rollout/prompt.py)"),
    Moved("data.label_key", "", "the manifest's column is called label"),
    Moved("data.max_len", "rollout.max_prompt_length", "here without the response"),
    Moved("rollout.n_samples_per_prompt", "rollout.group_size"),
    Moved("rollout.batch_size", "grpo.groups_per_step"),
    Moved("rollout.max_new_tokens", "rollout.max_response_length"),
    Moved("rollout.top_p", "", _WHOLE),
    Moved("train.batch_size", "grpo.groups_per_update", "in clips here, in samples there"),
    Moved("train.micro_batch_size", "learner.max_tokens_per_batch", _TOKENS),
    Moved("train.max_tokens_per_gpu", "learner.max_tokens_per_batch"),
    Moved("train.num_episodes", "grpo.num_steps", _STEPS),
    Moved("train.max_epochs", "grpo.ppo_epochs"),
    Moved("train.seed", "seed"),
    Moved("train.async_enable", "grpo.max_staleness", "above 0, rollouts run ahead"),
    Moved("train.async_queue_size", "grpo.max_staleness", "in versions of the weights"),
    Moved("train.colocate_all", "", _SHARED),
    Moved("train.agent_func_path", "", "one turn: a clip, a question, a trace"),
    Moved("actor.num_nodes", "learner.num_ranks", "ranks; Ray places them"),
    Moved("actor.num_gpus_per_node", "learner.num_ranks", "ranks; Ray places them"),
    Moved("actor.adam.lr", "grpo.optim.learning_rate"),
    Moved("actor.adam.betas", "grpo.optim.betas"),
    Moved("actor.adam.weight_decay", "grpo.optim.weight_decay"),
    Moved("actor.lr_scheduler", "grpo.optim.decay", _CONSTANT),
    Moved("actor.lr_warmup_ratio", "grpo.optim.warmup_frac"),
    Moved("actor.max_norm", "grpo.optim.grad_clip"),
    Moved("actor.eps_clip", "grpo.loss.clip_ratio_low", "and grpo.loss.clip_ratio_high"),
    Moved("actor.eps_clip_low_high", "grpo.loss.clip_ratio_low", "and grpo.loss.clip_ratio_high"),
    Moved("actor.dual_clip", "grpo.loss.clip_ratio_c"),
    Moved("actor.entropy_coef", "grpo.loss.entropy_coeff"),
    Moved("actor.gradient_checkpointing_enable", "learner.gradient_checkpointing"),
    Moved("algo.advantage.estimator", "grpo.loss.adv_estimator", "grpo is group_norm; or rloo"),
    Moved("algo.advantage.is_correction_enable", "grpo.loss.rollout_is", "false is none"),
    Moved("algo.advantage.is_correction_threshold", "grpo.loss.rollout_is_threshold"),
    Moved("algo.advantage.*", "", _NO_CRITIC),
    Moved("algo.kl.init_coef", "grpo.loss.kl_coef", "in the reward; kl_loss_coef is in the loss"),
    Moved("algo.kl.use_loss", "grpo.loss.kl_loss_coef", "above 0: on"),
    Moved("algo.kl.estimator", "grpo.loss.kl_penalty", "kl_loss_type in the loss"),
    Moved("algo.kl.*", "", "the coefficient is fixed"),
    Moved("algo.dynamic_filtering_enable", "grpo.filter_groups.enable"),
    Moved("algo.dynamic_filtering_range", "", "any group whose rewards are not all equal"),
    Moved("reward.remote_url", "reward.terms.function", "a .py file; no URL"),
    Moved("reward.model_name_or_path", "", "no reward model; the term judge asks an endpoint"),
    Moved("ref.*", "", _REFERENCE),
    Moved("vllm.num_engines", "rollout.num_workers"),
    Moved("vllm.tensor_parallel_size", "rollout.tensor_parallel_size"),
    Moved("vllm.gpu_memory_utilization", "rollout.gpu_memory_utilization"),
    Moved("vllm.enforce_eager", "rollout.enforce_eager"),
    Moved("vllm.enable_prefix_caching", "", "always"),
    Moved("vllm.enable_sleep", "", _NO_SLEEP),
    Moved("vllm.sync_backend", "transfer.kind", "object_store, nccl or ipc"),
    Moved("ds.zero_stage", "learner.zero_stage"),
    Moved("ds.param_dtype", "learner.dtype"),
    Moved("ds.adam_offload", "learner.offload", "'optimizer'"),
    Moved("ds.packing_samples", "", "always: groups are packed without padding"),
    Moved("ds.ring_attn_size", "", "no sequence parallelism"),
    Moved("ds.lora.rank", "learner.lora.rank", "0 there: no [learner.lora]"),
    Moved("ds.lora.alpha", "learner.lora.alpha"),
    Moved("ds.lora.dropout", "learner.lora.dropout"),
    Moved("ds.lora.target_modules", "learner.lora.target_modules", _LAYERS),
    Moved("ckpt.save_steps", "grpo.save_every"),
    Moved("ckpt.output_dir", "", "`--run-dir`"),
    Moved("ckpt.path", "", "`--run-dir`"),
    Moved("ckpt.load_enable", "", "`--resume`"),
    Moved("ckpt.save_hf", "", "each stage leaves RUN/stages/STAGE/model"),
    Moved("ckpt.max_num", "grpo.keep_last"),
    Moved("ckpt.best_metric_key", "", "a stage ends with its last weights"),
    Moved("eval.steps", "", _AT_THE_END),
    Moved("eval.temperature", "evaluate.temperature"),
    Moved("eval.n_samples_per_prompt", "controls.num_votes", _VOTES),
    Moved("logger.*", "", _LOGS),
)
"""OpenRLHF 0.10's dotted flags, without the dashes."""

QWEN: tuple[Moved, ...] = (
    Moved("FPS", "video.fps"),
    Moved("FPS_MIN_FRAMES", "video.min_frames"),
    Moved("FPS_MAX_FRAMES", "video.max_frames"),
    Moved("VIDEO_MIN_PIXELS", "video.min_pixels"),
    Moved("VIDEO_MAX_PIXELS", "video.max_pixels"),
    Moved("nframes", "video.max_frames", "without video.fps, frames are spread over the clip"),
    Moved("video_fps", "video.fps"),
    Moved("video_min_frames", "video.min_frames"),
    Moved("video_max_frames", "video.max_frames"),
    Moved("video_min_pixels", "video.min_pixels"),
    Moved("video_max_pixels", "video.max_pixels"),
    Moved("total_pixels", "video.total_pixels"),
    Moved("video_total_pixels", "video.total_pixels"),
    Moved("vision_tower_lr", "grpo.optim.vision_learning_rate"),
    Moved("mm_projector_lr", "grpo.optim.merger_learning_rate"),
    Moved("tune_mm_vision", "learner.freeze_vision_tower", "the other way round"),
    Moved("tune_mm_mlp", "learner.freeze_merger", "the other way round"),
    Moved("tune_mm_llm", "learner.freeze_language_model", "the other way round"),
    Moved("vit_lr", "grpo.optim.vision_learning_rate"),
    Moved("aligner_lr", "grpo.optim.merger_learning_rate"),
    Moved("freeze_vit", "learner.freeze_vision_tower"),
    Moved("freeze_aligner", "learner.freeze_merger"),
    Moved("freeze_llm", "learner.freeze_language_model"),
)
"""qwen-vl-utils, Qwen's own fine-tuning, ms-swift (environment variables, arguments), ROLL (lower
case)."""

SYSTEMS: Mapping[str, tuple[Moved, ...]] = {
    "verl": VERL,
    "TRL": TRL,
    "OpenRLHF": OPENRLHF,
    "Qwen": QWEN,
}


def hint(key: str, value: object, known: Sequence[str]) -> str | None:
    """Hint for an unknown key, if another system has it; else None.

    ``key`` is dotted, as typed; ``value`` may be a table, whose keys are then looked up;
    ``known`` are the keys of the section in which it was typed.
    """
    lines = [line for name in _leaves(key, value) if (line := _line(name, known))]
    if not lines:
        return None
    more = len(lines) - _SHOWN
    rest = [f"and {more} more, see docs/migration.md"] if more > 0 else []
    return "; ".join([*lines[:_SHOWN], *rest])


def _leaves(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _line(key: str, known: Sequence[str]) -> str | None:
    entry = _find(key)
    if entry is None:
        return None
    system, moved = entry
    own = _in_section(key, moved.ours, known)
    if own and own != moved.ours:
        advice = f"here it is {own}"
    elif moved.ours:
        advice = f"here it is {moved.ours}" + (f" ({moved.note})" if moved.note else "")
    else:
        advice = f"not here: {moved.note}"
    return f"unknown key {key!r} ({system}): {advice}"


def _in_section(key: str, ours: str, known: Sequence[str]) -> str:
    """Our key in the section of ``key``: calibrate.learning_rate for ``calibrate.lr``."""
    section = key.rpartition(".")[0]
    parts = ours.split(".")
    tails = [parts[start:] for start in range(1, len(parts)) if parts[start] in known]
    return ".".join([section, *tails[0]]) if section and tails else ""


def _find(key: str) -> tuple[str, Moved] | None:
    """Find the setting ``key``: by the whole key, else below a ``.*``, else by its last parts."""
    bare = key.lstrip("+~-")
    every = [(system, moved) for system, table in SYSTEMS.items() for moved in table]
    whole = (pair for pair in every if pair[1].theirs == bare)
    below = (p for p in every if p[1].theirs.endswith(".*") and bare.startswith(p[1].theirs[:-1]))
    return next(whole, None) or next(below, None) or _by_last_parts(bare, every)


def _by_last_parts(key: str, every: Sequence[tuple[str, Moved]]) -> tuple[str, Moved] | None:
    """Find a setting by the last parts of ``key``, as in ``optim.lr``, if they are unambiguous."""
    parts = key.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        same = [p for p in every if p[1].theirs == tail or p[1].theirs.endswith("." + tail)]
        if same and (start < len(parts) - 1 or _tells(tail, same)):
            return same[0] if len({moved.ours or moved.note for _, moved in same}) == 1 else None
    return None


def _tells(word: str, same: Sequence[tuple[str, Moved]]) -> bool:
    """Whether a single word identifies a setting: ``steps`` and ``path`` do not."""
    return "_" in word or word == "lr" or any(moved.theirs == word for _, moved in same)
