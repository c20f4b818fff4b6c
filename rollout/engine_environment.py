"""Environment variables of an engine, which vLLM reads at import and its processes inherit."""

import os

from rollout.config import RolloutConfig

OWNER = "DEEPINTUIT_ENGINE_OWNER"
"""Process id of the actor that an engine belongs to; see the watchdog in vllm_extension."""


def set_engine_environment(config: RolloutConfig) -> None:
    """Set the environment variables; to be called before vLLM is imported."""
    os.environ[OWNER] = str(os.getpid())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a forked worker starts no watchdog
    os.environ.setdefault("HF_HUB_OFFLINE", "1" if config.num_gpus == 0 else "0")
    if config.num_gpus == 0:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = f"{max(1, round(config.kv_cache_gb))}"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # several engines share the cores
        os.environ["OMP_NUM_THREADS"] = str(config.num_threads)
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # seconds of compilation, no gain
