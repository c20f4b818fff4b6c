"""Arguments of vLLM's engine for a model and the recipe's settings."""

from pathlib import Path
from typing import Any

from rollout.config import RolloutConfig
from rollout.lora import AdapterSlots, engine_arguments
from rollout.vllm_calls.request import receiver_cache_gb


def vllm_arguments(
    model_dir: Path,
    config: RolloutConfig,
    backend: str,
    adapters: AdapterSlots | None,
    seed: int = 0,
) -> Any:
    """Arguments of vLLM's engine for a model and the recipe's settings."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    import rollout.vllm_extension  # noqa: F401  knows the backend, for the check of the config

    return AsyncEngineArgs(
        model=str(model_dir),
        seed=seed,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        scheduling_policy="priority",  # first come, first served among requests of one priority
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        enforce_eager=config.enforce_eager,
        block_size=config.block_size,
        enable_prefix_caching=True,
        enable_sleep_mode=config.sleep and config.num_gpus > 0,
        max_num_batched_tokens=max(config.max_model_len, config.max_batched_tokens),
        limit_mm_per_prompt={"video": 1, "image": 0},
        mm_processor_cache_gb=receiver_cache_gb(config),  # of the core: our clips come processed
        mm_device_do_normalize=False,  # ours are normalised; twice shifts logprobs by 0.1
        logprobs_mode=logprobs_mode(config),
        weight_transfer_config=WeightTransferConfig(backend=backend),
        worker_extension_cls="rollout.vllm_extension.Extension",
        disable_log_stats=True,
        distributed_executor_backend=_executor(config),
        **engine_arguments(adapters),
    )


def logprobs_mode(config: RolloutConfig) -> str:
    """vLLM's mode: raw logprobs are at temperature 1 whatever a request's, processed ones are of
    the distribution that a token is drawn from."""
    return "processed_logprobs" if config.tempered else "raw_logprobs"


def _executor(config: RolloutConfig) -> str | None:
    """Executor of the engine: how it runs its workers, one per GPU.

    Several are processes of this node, on the GPUs that Ray has given to the actor: inside a
    placement group vLLM would choose Ray's actors, and refuse a bundle of several GPUs. One is
    vLLM's choice, but on a CPU: there it starts its only worker as one more process, and both sides
    poll for a second after each message. In one process an engine is up 20 s sooner and takes 1 GB
    less (demo model, 2 cores); what it generates is the same.
    """
    if config.tensor_parallel_size > 1:
        return "mp"
    if config.num_gpus == 0:
        return "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return None
